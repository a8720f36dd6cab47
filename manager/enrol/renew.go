package enrol

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ExpiredGrace is how long after the end of its certificate a node may renew it,
// unless the cluster's spec says otherwise.
const ExpiredGrace = 30 * 24 * time.Hour

// Renew returns the caller's next certificate: the one recorded for the key if
// the request came before, or a new generation for the role its record wants. A
// certificate newer than its record is of a history that a restore has cut off:
// its holder is the node again if a join token vouches for it, as it could be
// another node with that token alone. One that has ended or was revoked is renewed
// as the cluster's settings and its operator allow; until they do, the node waits.
//
// A certificate is dated by the leader's clock and not by log time: clocks judge
// it, and log time may be ahead of them all.
func (m *Members) Renew(ctx context.Context, r authority.Renewal, prepare authority.Prepare) (authority.Admission, error) {
	var out authority.Admission
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) (err error) {
		out, err = renew(tx, r, prepare, time.Now())
		return err
	})
	return out, err
}

func renew(tx *store.Tx, r authority.Renewal, prepare authority.Prepare, now time.Time) (authority.Admission, error) {
	node := r.Caller.Node
	old := tx.Node(node)
	if old == nil {
		return authority.Admission{}, removed(node)
	}
	current := old.GetCurrent()
	again := bytes.Equal(current.GetKeySha256(), r.Key.SHA256[:])
	if again && now.UnixNano() < current.GetNotAfter() && current.GetGeneration() > old.GetRevoked() && signable(tx, current) {
		return authority.Admission{Node: node, Record: current}, nil
	}
	ahead := r.Caller.Generation > current.GetGeneration()
	switch {
	case ahead && r.Invitation == nil:
		return authority.Admission{}, newerThanRecord(r.Caller, old)
	case ahead:
		if err := vouch(tx, old, r); err != nil {
			return authority.Admission{}, err
		}
	}
	n := proto.CloneOf(old)
	if !ahead {
		if why, err := allowed(tx, old, r, now); err != nil {
			return authority.Admission{}, err
		} else if why != "" {
			return authority.Admission{Node: node}, wait(tx, n, r, why)
		}
	}
	next, err := prepare(node, old.GetSpec().GetRole(), max(current.GetGeneration(), r.Caller.Generation)+1, now)
	if err != nil {
		return authority.Admission{}, err
	}
	switch {
	case ahead: // what the caller holds, so that it may ask again
		n.Previous = heldBy(r.Caller)
	case !again: // else the caller never had the current one: its answer was lost, or its root signs no more
		n.Previous = n.GetCurrent()
	}
	if n.GetPrevious() != nil {
		n.Previous.SupersededAt = tx.Base().Now().UnixNano()
	}
	n.Current, n.Wait = next, nil
	return authority.Admission{Node: node, Record: next}, tx.PutNode(n)
}

// allowed is late for whoever may have brought a join token: that one vouches for him.
func allowed(tx *store.Tx, n *modelv1.Node, r authority.Renewal, now time.Time) (why string, err error) {
	why, err = late(tx, n, r, now)
	if r.Invitation != nil && (err != nil || why != "") {
		return "", vouch(tx, n, r)
	}
	return why, err
}

// late says what r has to be allowed for, "" if that is nothing or was allowed: its
// certificate was revoked, or has ended and the cluster wants an operator to look. It
// refuses what nobody can allow.
func late(tx *store.Tx, n *modelv1.Node, r authority.Renewal, now time.Time) (why string, err error) {
	since := now.Sub(r.Caller.NotAfter)
	revoked := r.Caller.Generation <= n.GetRevoked()
	current := n.GetCurrent().GetKeySha256()
	// The former slot may repeat the request that superseded it, and no other.
	old := !bytes.Equal(current, r.Caller.KeySHA256[:]) && !bytes.Equal(current, r.Key.SHA256[:])
	if !revoked && !old && since <= 0 {
		return "", nil
	}
	if w := n.GetWait(); w.GetVerdict() == modelv1.RenewalWait_VERDICT_ACCEPTED && bytes.Equal(w.GetKey(), r.Key.SHA256[:]) {
		return "", nil
	}
	if revoked {
		return "its certificates were revoked", nil
	}
	if since > 0 {
		if why, err = ended(tx, r, since); why != "" || err != nil {
			return why, err
		}
	}
	if old {
		return "a newer certificate has taken the place of this one: the host was restored from an older image, or is a copy", nil
	}
	return "", nil
}

// ended is late for a certificate that has ended so long ago.
func ended(tx *store.Tx, r authority.Renewal, since time.Duration) (why string, err error) {
	why = "its certificate ended at " + r.Caller.NotAfter.UTC().Format(time.RFC3339)
	if tx.MemberByNode(r.Caller.Node) != nil && since <= rpc.ExpiredGrace {
		return "", nil // or a swarm that was off for long could not come back
	}
	spec, grace := tx.Cluster().GetSpec(), ExpiredGrace
	if d := time.Duration(spec.GetExpiredGrace()); d > 0 {
		grace = d
	}
	switch mode := spec.GetExpiredRenewal(); {
	case mode == modelv1.ExpiredRenewal_EXPIRED_RENEWAL_NEVER:
		return "", tooLate(r, why+", and the swarm lets no node renew after that")
	case since > grace:
		return "", tooLate(r, fmt.Sprintf("%s, and the swarm lets nodes renew for %v after that", why, grace))
	case mode == modelv1.ExpiredRenewal_EXPIRED_RENEWAL_APPROVE:
		return why, nil
	}
	return "", nil
}

func tooLate(r authority.Renewal, why string) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "node %s: %s", r.Caller.Node, why),
		`leave and join again: "ctl swarm leave --force", then "ctl swarm join"; or have an admin allow it: "ctl swarm update --expired-renewal auto"`)
}

// wait notes that a node waits to be allowed its next certificate. Whoever asks
// again writes nothing.
func wait(tx *store.Tx, n *modelv1.Node, r authority.Renewal, why string) error {
	w := n.GetWait()
	if w.GetVerdict() == modelv1.RenewalWait_VERDICT_REJECTED {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "node %s: %s, and an operator does not let it renew", r.Caller.Node, why),
			`leave and join again: "ctl swarm leave --force", then "ctl swarm join"`)
	}
	if bytes.Equal(w.GetKey(), r.Key.SHA256[:]) {
		return nil
	}
	// Of two machines with one identity the first holds the place: what the operator
	// is shown must not change under his hands.
	if at := tx.Base().Now(); w != nil && w.GetVerdict() == modelv1.RenewalWait_VERDICT_UNSPECIFIED && at.UnixNano() < w.GetAskedAt()+int64(PendingFor) {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "node %s: %s, and another machine at %s waits with this identity to be accepted",
			r.Caller.Node, why, w.GetFrom()), `an operator decides with "ctl node accept" or "ctl node reject"`)
	}
	n.Wait = &modelv1.RenewalWait{Key: r.Key.SHA256[:], From: r.Address, AskedAt: tx.Base().Now().UnixNano(), Reason: why}
	return tx.PutNode(n)
}
