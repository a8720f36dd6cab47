package membership

import (
	"testing"

	"github.com/containerd/errdefs"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

func TestOnlyMembersThatAreToStayGetTheRing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	if _, err := w.Ring(as(t.Context(), 2), &raftv1.RingRequest{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a node that is to be a manager and is no member yet gets %v", err)
	}
	w.learn(2, 22)
	resp, err := w.Ring(as(t.Context(), 2), &raftv1.RingRequest{})
	if err != nil || resp.GetRing().GetActive() != 7 {
		t.Errorf("a learner gets %v, %v, want the ring", resp, err)
	}
	w.node(2, modelv1.Role_ROLE_WORKER) // demoted, and not taken out yet
	if _, err := w.Ring(as(t.Context(), 2), &raftv1.RingRequest{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a member that is to be a worker gets %v", err)
	}
	if _, err := w.Kept(as(t.Context(), 2), &raftv1.KeptRequest{Kept: 9}); !errdefs.IsPermissionDenied(err) || len(w.kept) > 0 {
		t.Errorf("it is believed about its keys: %v, %v", w.kept, err)
	}
	if _, err := w.Ring(t.Context(), &raftv1.RingRequest{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("nobody gets %v", err)
	}
}

func TestWhoIsGivenTheRingIsRecordedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.refuseToGive = errdefs.ErrUnavailable
	if resp, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377"}); !errdefs.IsUnavailable(err) {
		t.Errorf("the ring is given to somebody who could not be recorded: %v, %v", resp, err)
	}
	w.refuseToGive = nil
	if _, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377"}); err != nil || len(w.given) != 2 || w.given[1] != nodeN(2) {
		t.Errorf("given to %v, %v, want node 2", w.given, err)
	}
}
