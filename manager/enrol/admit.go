package enrol

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// PendingFor is how long a node waits for an operator before it is forgotten.
	PendingFor = 24 * time.Hour
	// maxPending bounds the nodes that wait; more are refused.
	maxPending = 256

	pending  = modelv1.Membership_MEMBERSHIP_PENDING
	accepted = modelv1.Membership_MEMBERSHIP_ACCEPTED
)

// Enrol returns the node of e's key, made if need be. Nothing is proposed for a
// machine that is refused, or that waits and asks again.
func (m *Members) Enrol(ctx context.Context, e authority.Enrolment, prepare authority.Prepare) (authority.Admission, error) {
	fresh := id.New() // kept over retries (R10)
	var out authority.Admission
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) (err error) {
		if owner, ok := tx.Holder(store.ClaimEnrolmentKey, hex.EncodeToString(e.Key.SHA256[:])); ok {
			out, err = again(tx, owner, e, prepare)
			return err
		}
		out, err = admit(tx, fresh, e, prepare)
		return err
	})
	return out, err
}

// again answers a request whose key made a node before: it gets the same record
// (R17), or its first if it was accepted meanwhile.
func again(tx *store.Tx, node id.ID, e authority.Enrolment, prepare authority.Prepare) (authority.Admission, error) {
	n := tx.Node(node)
	if n == nil {
		return authority.Admission{}, fmt.Errorf("node %s: its key is claimed but it is gone: %w", node, errdefs.ErrFailedPrecondition)
	}
	if err := sameEnrolment(tx, n, e); err != nil {
		return authority.Admission{}, err
	}
	if err := fit(tx, e); err != nil {
		return authority.Admission{}, err
	}
	switch {
	case n.GetCurrent() != nil && !signable(tx, n.GetCurrent()):
		record, err := prepareAgain(tx, n, prepare)
		return authority.Admission{Node: node, Record: record}, err
	case n.GetCurrent() != nil:
		return authority.Admission{Node: node, Record: n.GetCurrent()}, nil
	case n.GetMembership() == pending:
		return authority.Admission{Node: node, Expires: pendingUntil(n)}, nil
	}
	record, err := prepare(node, n.GetSpec().GetRole(), 1, time.Now())
	if err != nil {
		return authority.Admission{}, err
	}
	n = proto.CloneOf(n)
	n.Current = record
	return authority.Admission{Node: node, Record: record}, tx.PutNode(n)
}

// pendingUntil is when a node that waits is forgotten.
func pendingUntil(n *modelv1.Node) int64 { return n.GetMeta().GetCreatedAt() + int64(PendingFor) }

// sameEnrolment refuses a request whose key made a node by other means. The token
// that made it may be over by now: it was counted then.
func sameEnrolment(tx *store.Tx, n *modelv1.Node, e authority.Enrolment) error {
	node, role := idOf(n.GetId()), e.Role
	if role == 0 {
		t, err := shown(tx, n, e)
		if err != nil {
			return err
		}
		role = t.GetRole()
	}
	had := n.GetSpec().GetRole() // of one that waits
	if n.GetCurrent() != nil {
		had = n.GetCurrent().GetRole()
		if !bytes.Equal(n.GetCurrent().GetKeySha256(), e.Key.SHA256[:]) {
			return fmt.Errorf("this key enrolled node %s, which has another certificate by now; join with a new key: %w",
				node, errdefs.ErrFailedPrecondition)
		}
	}
	if had != role {
		return fmt.Errorf("this key enrolled node %s with a token for another role; join with a new key: %w",
			node, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// shown returns the token that e shows, which may be over if it made n.
func shown(tx *store.Tx, n *modelv1.Node, e authority.Enrolment) (*modelv1.JoinToken, error) {
	if bytes.Equal(n.GetTokenHash(), e.Hash) {
		return lookUp(tx, e.Invitation)
	}
	return invited(tx, e)
}

// admit makes the node of a machine that was not here before.
func admit(tx *store.Tx, node id.ID, e authority.Enrolment, prepare authority.Prepare) (authority.Admission, error) {
	t, err := invited(tx, e)
	if err != nil {
		return authority.Admission{}, err
	}
	if err := fit(tx, e); err != nil {
		return authority.Admission{}, err
	}
	at := tx.Base().Now()
	n := newNode(node, e, t)
	if t.GetApprove() {
		if err := roomToWait(tx); err != nil {
			return authority.Admission{}, err
		}
	} else if n.Current, err = prepare(node, n.GetSpec().GetRole(), 1, time.Now()); err != nil {
		return authority.Admission{}, err
	}
	if t.GetId() != nil {
		if err := spend(tx, t, useOf(n, e, at)); err != nil {
			return authority.Admission{}, err
		}
	}
	if err := tx.PutNode(n); err != nil {
		return authority.Admission{}, err
	}
	out := authority.Admission{Node: node, Record: n.GetCurrent()}
	if out.Record == nil {
		out.Expires = at.Add(PendingFor).UnixNano()
	}
	return out, tx.Claim(store.ClaimEnrolmentKey, hex.EncodeToString(e.Key.SHA256[:]), node)
}

// fit refuses a machine that does not say that it is in FIPS 140-3 mode, where the
// cluster asks for it. Its token was good, and stays so.
func fit(tx *store.Tx, e authority.Enrolment) error {
	if tx.Cluster().GetFips() && !e.FIPS {
		return rpc.RefuseFIPS("enrol")
	}
	return nil
}

// roomToWait refuses a node that would wait behind too many others.
func roomToWait(tx *store.Tx) error {
	waiting := 0
	for n := range tx.Nodes() {
		if n.GetMembership() == pending {
			waiting++
		}
	}
	if waiting < maxPending {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrResourceExhausted, "%d nodes wait to be accepted, and no more may", waiting),
		`an operator accepts or rejects them first: "ctl node ls --filter membership=pending"`)
}

// newNode is the record of a machine that comes in by t.
func newNode(node id.ID, e authority.Enrolment, t *modelv1.JoinToken) *modelv1.Node {
	availability := e.Availability
	if availability == modelv1.Availability_AVAILABILITY_UNSPECIFIED {
		availability = modelv1.Availability_AVAILABILITY_ACTIVE
	}
	n := &modelv1.Node{
		Id:   node.Bytes(),
		Spec: &modelv1.NodeSpec{Role: t.GetRole(), Availability: availability, Labels: maps.Clone(t.GetLabels())},
		// A manager's role follows with its membership (R25).
		Role:         modelv1.Role_ROLE_WORKER,
		Membership:   accepted,
		Description:  &modelv1.NodeDescription{Hostname: e.Hostname, Address: e.Address, Fips: e.FIPS},
		Status:       &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_UNKNOWN, Message: "joined, not heard yet", ObservedAddress: e.Address},
		TokenHash:    e.Hash,
		JoinedFrom:   e.Address,
		EnrolmentKey: e.Key.SHA256[:],
	}
	if t.GetApprove() {
		n.Membership, n.Status.Message = pending, "waits to be accepted"
	}
	return n
}

func idOf(b []byte) id.ID {
	x, err := id.FromBytes(b)
	if err != nil {
		return id.ID{} // apply keeps such ids out
	}
	return x
}
