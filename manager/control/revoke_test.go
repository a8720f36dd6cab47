package control

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestARevokedNodeWaitsForAnOperator who accepts or rejects it, and may think better
// of it.
func TestARevokedNodeWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	x := num(60)
	edit := func(change func(*modelv1.Node)) {
		t.Helper()
		if _, err := w.cfg.DB.Update(t.Context(), nil, func(tx *store.Tx) error {
			n := &modelv1.Node{Id: x.Bytes(), Role: worker, Membership: accepted, Spec: &modelv1.NodeSpec{Role: worker},
				Current: &modelv1.Certificate{Generation: 4}}
			if old := tx.Node(x); old != nil {
				n = proto.CloneOf(old)
			}
			change(n)
			return tx.PutNode(n)
		}); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(*modelv1.Node) {})
	resp, err := w.UpdateNode(asRoot(t), &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: x.String(), Revoke: true})
	if err != nil || len(resp.GetWarnings()) != 1 || !strings.Contains(resp.GetWarnings()[0], "ctl node accept "+x.String()) {
		t.Fatalf("revoked: %v, %v", resp.GetWarnings(), err)
	}
	if n := w.snapshot().Node(x); n.GetRevoked() != 4 || n.GetRevokedAt() == 0 {
		t.Errorf("the record is %v, want generation 4 revoked", n)
	}
	listed := func() int {
		resp, err := w.ListNodes(asRoot(t), &controlv1.ListNodesRequest{Filter: &controlv1.Filter{Memberships: []modelv1.Membership{waiting}}})
		if err != nil {
			t.Fatal(err)
		}
		return len(resp.GetNodes())
	}
	if listed() != 0 {
		t.Error("it waits before it has asked")
	}
	if _, err := w.RejectNode(asRoot(t), &controlv1.RejectNodeRequest{RequestId: fresh(), Ref: x.String()}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("rejected before it has asked: %v", err)
	}
	edit(func(n *modelv1.Node) { n.Wait = &modelv1.RenewalWait{Key: []byte("key")} })
	if listed() != 1 {
		t.Error("it has asked and is not shown to wait")
	}
	if _, err := w.RejectNode(asRoot(t), &controlv1.RejectNodeRequest{RequestId: fresh(), Ref: x.String()}); err != nil {
		t.Fatal(err)
	}
	if n := w.snapshot().Node(x); n.GetWait().GetVerdict() != modelv1.RenewalWait_VERDICT_REJECTED || n.GetWait().GetDecidedBy() == "" || listed() != 0 {
		t.Errorf("the rejected node is %v", n)
	}
	for try, unchanged := range []bool{false, true} {
		resp, err := w.AcceptNode(asRoot(t), &controlv1.AcceptNodeRequest{RequestId: fresh(), Ref: x.String()})
		if err != nil || resp.GetUnchanged() != unchanged {
			t.Errorf("accepted, try %d: %v, %v", try, resp, err)
		}
	}
	if v := w.snapshot().Node(x).GetWait().GetVerdict(); v != modelv1.RenewalWait_VERDICT_ACCEPTED {
		t.Errorf("the verdict is %v", v)
	}
}
