// Package enrol joins the certificate authority and the chain of calls to the
// cluster's state.
//
// It records enrolments and renewals (Members, for ca/authority), judges nodes and
// users by their live records (Authorizer, for internal/rpc) and says whom agents
// and clients may dial (ManagerList). It decides no policy of its own and signs
// nothing.
//
// Invariant: what it judges by is a snapshot of the store, and never anything a
// certificate says but its node or user, generation and key.
package enrol

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// Members records enrolments and renewals in the store.
type Members struct{ db *store.DB }

// NewMembers returns the Members of a cluster.
func NewMembers(db *store.DB) *Members { return &Members{db: db} }

// Cluster returns what the authority needs of the cluster object.
func (m *Members) Cluster(context.Context) (authority.Cluster, error) {
	c := m.db.Snapshot().Cluster()
	if c == nil {
		return authority.Cluster{}, fmt.Errorf("this manager has no cluster yet: %w", errdefs.ErrUnavailable)
	}
	cluster, err := id.FromBytes(c.GetId())
	if err != nil {
		return authority.Cluster{}, fmt.Errorf("cluster: %w", err)
	}
	out := authority.Cluster{
		ID: cluster, Roots: c.GetRoot().GetCertificates(), Key: sealed.NewSecret(c.GetRoot().GetKey()), Spec: c.GetSpec(),
		WorkerToken: sealed.NewSecret(c.GetWorkerToken()), ManagerToken: sealed.NewSecret(c.GetManagerToken()),
	}
	out.Via, out.External = c.GetRoot().GetVia(), c.GetRoot().GetExternal()
	for _, f := range c.GetRoot().GetFormer() {
		if m.db.Snapshot().Now().UnixNano() < f.GetUntil() {
			out.Former = append(out.Former, ca.RootDigest(f.GetCertificate()))
		}
	}
	if m.db.Snapshot().Now().UnixNano() < c.GetPreviousUntil() {
		out.FormerWorkerToken = sealed.NewSecret(c.GetPreviousWorkerToken())
		out.FormerManagerToken = sealed.NewSecret(c.GetPreviousManagerToken())
	}
	out.FIPS = c.GetFips()
	return out, nil
}

// Managers returns the list of the moment.
func (m *Members) Managers() *cav1.ManagerList { return ManagerList(m.db.Snapshot()) }

// signable reports whether a record can be signed: it was prepared for the root that
// signs now.
func signable(tx *store.Tx, record *modelv1.Certificate) bool {
	signer := store.Signer(tx.Cluster().GetRoot())
	return bytes.Equal(record.GetIssuer(), signer[:])
}

// prepareAgain gives a node whose certificate was recorded, and perhaps not signed
// before another root came, the next one for the same key. What it held before
// stays known.
func prepareAgain(tx *store.Tx, n *modelv1.Node, prepare authority.Prepare) (*modelv1.Certificate, error) {
	was := n.GetCurrent()
	record, err := prepare(idOf(n.GetId()), was.GetRole(), was.GetGeneration()+1, time.Now())
	if err != nil {
		return nil, err
	}
	n = proto.CloneOf(n)
	n.Current = record
	return record, tx.PutNode(n)
}

// heldBy is the record of a certificate of which only the proof is known.
func heldBy(who ca.Identity) *modelv1.Certificate {
	return &modelv1.Certificate{
		Generation: who.Generation, KeySha256: who.KeySHA256[:], Role: who.Role,
		NotBefore: who.NotBefore.UnixNano(), NotAfter: who.NotAfter.UnixNano(),
	}
}

// newerThanRecord refuses a certificate that the record does not know yet, and
// after a barrier never will.
func newerThanRecord(who ca.Identity, n *modelv1.Node) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated,
		"certificate of node %s has generation %d and its record knows only %d: the swarm was restored from an older state",
		who.Node, who.Generation, n.GetCurrent().GetGeneration()),
		`run "ctl swarm join" on that node with a token of the swarm: it stays the same node and its containers run on`)
}

func superseded(who ca.Identity) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated,
		"certificate of node %s, generation %d: a newer one has taken its place", who.Node, who.Generation),
		`if this host was copied or restored from a backup, leave and join again: "ctl swarm leave", then "ctl swarm join"`)
}

func revoked(n *modelv1.Node) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "the certificates of node %s were revoked at %s", idOf(n.GetId()),
		time.Unix(0, n.GetRevokedAt()).UTC().Format(time.RFC3339)),
		`it asks for another by itself, which an operator allows with "ctl node accept"; or leave and join again: "ctl swarm leave --force", then "ctl swarm join"`)
}

func removed(node id.ID) error {
	why := fmt.Sprintf("node %s was removed from the swarm", node)
	return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "%s", why),
		`to come back, leave and join again: "ctl swarm leave --force", then "ctl swarm join"`,
		&rpcv1.MustRejoin{Reason: why})
}

// ManagerList returns whom agents may dial as of snap (R15): the voters that are
// whole managers and have an address, in the order of their ids. Its index is the
// snapshot's; a list of a greater index holds at least as much of the truth.
func ManagerList(snap *store.Snapshot) *cav1.ManagerList {
	list := &cav1.ManagerList{Index: snap.Index(), History: snap.Cluster().GetHistory()}
	for m := range snap.Members() {
		if !m.GetVoter() || m.GetAddress() == "" || m.GetKind() == modelv1.MemberKind_MEMBER_KIND_WITNESS {
			continue
		}
		node, err := id.FromBytes(m.GetNode())
		if err != nil {
			continue // apply keeps such members out
		}
		n := snap.Node(node)
		entry := &cav1.Manager{Node: m.GetNode(), Address: m.GetAddress()}
		for _, c := range []*modelv1.Certificate{n.GetCurrent(), n.GetPrevious()} {
			if k := c.GetKeySha256(); len(k) > 0 {
				entry.Keys = append(entry.Keys, k)
			}
		}
		list.Managers = append(list.Managers, entry)
	}
	slices.SortFunc(list.Managers, func(a, b *cav1.Manager) int {
		return cmp.Or(bytes.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetAddress(), b.GetAddress()))
	})
	return list
}
