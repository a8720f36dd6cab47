package enrol

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// newConnections is how long a superseded certificate still opens connections,
	// and openStreams how long those that it opened live (R17).
	newConnections = time.Minute
	openStreams    = time.Hour
	// lookAgain bounds the wait for a replica that is behind a certificate (R14).
	lookAgain = 2 * time.Second
)

// Authorizer judges nodes and users by their live records (D7, R14, R17, R18).
type Authorizer struct {
	// Store holds the records. Required.
	Store *store.Store
	// Barrier returns when the replica holds all that was committed before it was
	// called. Required.
	Barrier func(ctx context.Context) error
	// InContact reports whether this manager is in contact with the quorum.
	// Required.
	InContact func() bool
	// StaleOK returns nil while the roles this replica knows may still be used for
	// stale answers. Nil means never.
	StaleOK func(ctx context.Context) error
	// Invited reports whether a node is one this manager was told of when it
	// joined: its replica is empty until the first of them has sent it the log. It
	// counts only as long as the replica holds no members. May be nil.
	Invited func(node id.ID) bool
}

var _ rpc.Authorizer = (*Authorizer)(nil)

// verdict is what a record says of a certificate.
type verdict int

const (
	current verdict = iota
	former          // the slot before the current one
	dropped         // a root signed it that the swarm has dropped
	older           // superseded and forgotten, or another key of that generation
	void            // one of the slots, and revoked
	newer           // this replica is behind, or the certificate is of another time
	unknown         // there is no record
)

// slots are the certificates a record knows: a node's or a user's.
type slots interface {
	GetCurrent() *modelv1.Certificate
	GetPrevious() *modelv1.Certificate
}

func judge(snap *store.Snapshot, p rpc.Proof) (*modelv1.Node, verdict) {
	n := snap.Node(p.Identity.Node)
	if n == nil {
		return nil, unknown
	}
	v := compare(snap.Cluster().GetRoot(), n, p.Generation, p.KeySHA256)
	if (v == current || v == former) && p.Generation <= n.GetRevoked() {
		return n, void
	}
	return n, v
}

// compare says which of a record's slots a certificate is.
func compare(root *modelv1.RootCA, have slots, generation uint64, key ca.Digest) verdict {
	cur, prev := have.GetCurrent(), have.GetPrevious()
	switch {
	case generation > cur.GetGeneration():
		return newer
	case generation == cur.GetGeneration() && bytes.Equal(key[:], cur.GetKeySha256()):
		if !store.Trusted(root, cur.GetIssuer()) {
			return dropped
		}
		return current
	case prev != nil && generation == prev.GetGeneration() && bytes.Equal(key[:], prev.GetKeySha256()):
		if !store.Trusted(root, prev.GetIssuer()) {
			return dropped
		}
		return former
	}
	return older
}

// rootDropped refuses a certificate of a root that was rotated away.
func rootDropped(whose, hint string) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated,
		"certificate of %s: the root that signed it was rotated, and the swarm trusts it no more", whose), hint)
}

// rejoin is the way back for a node whose certificate counts no more.
const rejoin = `run on that node: "ctl swarm leave --force", then "ctl swarm join" with a token of the swarm`

// Node returns the role of a node whose certificate is current.
func (a *Authorizer) Node(ctx context.Context, p rpc.Proof) (modelv1.Role, error) {
	if err := a.contact(ctx, p.Open, p.Stale); err != nil {
		return 0, err
	}
	n, v := judge(a.Store.Snapshot(), p)
	if v == newer || v == unknown {
		if p.Open || p.Stale {
			return a.unsure(n, v, p)
		}
		// Perhaps this replica is behind: have it catch up and look again.
		wait, stop := context.WithTimeout(ctx, lookAgain)
		defer stop()
		if err := a.Barrier(wait); err != nil {
			return 0, fmt.Errorf("node %s: its record is newer than this manager's: %w", p.Identity.Node, err)
		}
		n, v = judge(a.Store.Snapshot(), p)
	}
	return conclude(n, v, p)
}

// contact refuses what a manager out of contact with the quorum must not answer.
// Streams that are open already stay (R18).
func (a *Authorizer) contact(ctx context.Context, open, stale bool) error {
	if open || a.InContact() {
		return nil
	}
	if stale && a.StaleOK != nil {
		return a.StaleOK(ctx)
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "this manager is out of contact with the other managers"),
		"ask another manager")
}

// unsure answers without waiting. A record that is gone ends an open stream; one
// that is behind does not.
func (a *Authorizer) unsure(n *modelv1.Node, v verdict, p rpc.Proof) (modelv1.Role, error) {
	if v == unknown && a.InContact() {
		return 0, removed(p.Identity.Node)
	}
	if v == newer {
		return n.GetRole(), nil
	}
	return 0, fmt.Errorf("node %s: not known here: %w", p.Identity.Node, errdefs.ErrUnavailable)
}

func conclude(n *modelv1.Node, v verdict, p rpc.Proof) (modelv1.Role, error) {
	switch v {
	case current:
		return n.GetRole(), nil
	case former:
		return n.GetRole(), formerSlot(n, p)
	case unknown:
		return 0, removed(p.Identity.Node)
	case dropped:
		return 0, rootDropped("node "+p.Identity.Node.String(), rejoin)
	case newer:
		if p.Method == cav1.Authority_Renew_FullMethodName {
			return n.GetRole(), nil // Members.Renew wants a join token besides
		}
		return 0, newerThanRecord(p.Identity, n)
	case void:
		if p.Method == cav1.Authority_Renew_FullMethodName {
			return n.GetRole(), nil // Members.Renew has it wait for an operator
		}
		return 0, revoked(n)
	case older:
		if p.Method == cav1.Authority_Renew_FullMethodName {
			return n.GetRole(), nil // Members.Renew has it wait for an operator
		}
	}
	return 0, superseded(p.Identity)
}

// formerSlot says whether the certificate before the current one still counts: it
// may always repeat the request that replaced it (R17: the answer may have been
// lost), its connections live for an hour, and it opens new ones for a minute.
func formerSlot(n *modelv1.Node, p rpc.Proof) error {
	if p.Method == cav1.Authority_Renew_FullMethodName {
		return nil // Members.Renew answers only the key that was recorded
	}
	if stillGood(n.GetPrevious(), p.Since) {
		return nil
	}
	return superseded(p.Identity)
}

// stillGood reports whether a certificate that another has taken the place of
// counts on a connection made at since (R17).
func stillGood(c *modelv1.Certificate, since time.Time) bool {
	at := time.Unix(0, c.GetSupersededAt())
	return since.Before(at.Add(newConnections)) && time.Now().Before(at.Add(openStreams))
}

// Member returns nil if p's node belongs to the latest membership this manager
// knows and its certificate is not older than the one known. It asks no quorum:
// what it lets in brings the records (R14).
func (a *Authorizer) Member(_ context.Context, p rpc.Proof) error {
	snap := a.Store.Snapshot()
	node := p.Identity.Node
	if snap.MemberByNode(node) == nil {
		if a.Invited != nil && empty(snap) && a.Invited(node) {
			return nil
		}
		return rpc.Errorf(errdefs.ErrPermissionDenied, "node %s is not a member of the managers' group", node)
	}
	n, v := judge(snap, p)
	switch v {
	case current, newer:
		return nil
	case former:
		return formerSlot(n, p)
	case dropped:
		return rootDropped("node "+node.String(), rejoin)
	case void:
		return revoked(n)
	case unknown, older:
	}
	return superseded(p.Identity)
}

func empty(snap *store.Snapshot) bool {
	for range snap.Members() {
		return false
	}
	return true
}
