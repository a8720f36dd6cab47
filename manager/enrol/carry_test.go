package enrol_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestFollowersCarryCallsToTheLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leader, follower := w.serve(t, w.node(t, asManager)), w.serve(t, w.node(t, asManager))
	follower.leads.Store(false)
	follower.leader.Store(leader)

	got, err := w.join(t, w.worker, newKey(t), follower.address)
	if err != nil {
		t.Fatal(err)
	}
	if from := w.store.Snapshot().Node(got.Credential.Identity.Node).GetJoinedFrom(); from != "127.0.0.1" {
		t.Errorf("joined from %q, want the joiner's own address", from)
	}
	h := &ca.Holder{}
	h.Set(got.Credential)
	if _, err := renew(t, w.dial(t, follower, h), newKey(t)); err != nil {
		t.Errorf("renewal by way of a follower: %v", err)
	}
}

func TestCallsOutliveAnElection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, next, follower := w.serve(t, w.node(t, asManager)), w.serve(t, w.node(t, asManager)), w.serve(t, w.node(t, asManager))
	follower.leads.Store(false)
	old.leads.Store(false) // deposed, and the follower does not know
	follower.leader.Store(old)
	tried := make(chan struct{}, 100)
	follower.looked = func() { tried <- struct{}{} }
	cc := w.dial(t, follower, w.node(t, asWorker))
	done := make(chan error, 1)
	key := newKey(t)
	go func() {
		csr, err := ca.NewCSR(key)
		if err == nil {
			_, err = cav1.NewAuthorityClient(cc).Renew(t.Context(), &cav1.RenewRequest{Csr: csr})
		}
		done <- err
	}()
	<-tried // the deposed one was asked
	follower.leader.Store(nil)
	<-tried // and nobody
	follower.leader.Store(next)
	if err := <-done; err != nil {
		t.Errorf("a call during an election: %v", err)
	}
}

func TestAFollowerThatBecomesLeaderDoesTheWorkItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	m.leads.Store(false)
	m.looked = func() { m.leads.Store(true) }
	if _, err := renew(t, w.dial(t, m, w.node(t, asWorker)), newKey(t)); err != nil {
		t.Errorf("a call to a manager that is elected meanwhile: %v", err)
	}
}

func TestOnlyManagersCarryCallsAndOnlyOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	forge := metadata.AppendToOutgoingContext(t.Context(), "skep-forwarded", "1", "skep-caller-bin", `{"kind":2,"user":"uid:0"}`)
	_, err := controlv1.NewControlClient(w.dial(t, m, w.node(t, asWorker))).RemoveNode(forge, &controlv1.RemoveNodeRequest{})
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("a worker carried a call for root: %v", err)
	}
	cc := w.dial(t, m, w.node(t, asManager))
	if _, err = controlv1.NewControlClient(cc).RemoveNode(forge, &controlv1.RemoveNodeRequest{}); !errdefs.IsNotFound(err) {
		t.Errorf("a manager carried a call for root: %v, want the handler's answer", err)
	}
	m.leads.Store(false)
	_, err = controlv1.NewControlClient(cc).RemoveNode(forge, &controlv1.RemoveNodeRequest{})
	if rpc.RefusalOf(err).GetNotLeader() == nil {
		t.Errorf("carried twice: %v, want not the leader", err)
	}
	if _, err = controlv1.NewControlClient(cc).RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a manager node called a user's method: %v", err)
	}
}

func TestUsersOnTheSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leader, follower := w.serve(t, w.node(t, asManager)), w.serve(t, w.node(t, asManager))
	follower.leads.Store(false)
	follower.leader.Store(leader)
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- follower.server.ServeUnix(l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, stop := context.WithCancel(context.Background())
		stop()
		follower.server.Stop(ctx)
	})
	cc, err := rpc.DialUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	api := controlv1.NewControlClient(cc)

	_, err = api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{Ref: "n9"})
	fid := follower.holder.Get().Identity.Node.String()
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "user:uid:") || !strings.Contains(err.Error(), "via "+fid+": n9") || rpc.HintOf(err) != "look again" {
		t.Errorf("carried to the leader: %v (hint %q)", err, rpc.HintOf(err))
	}

	var header metadata.MD
	if _, err := api.GetCluster(rpc.Stale(t.Context()), &controlv1.GetClusterRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if f, ok := rpc.FreshnessOf(header); !ok || !f.Stale || f.Applied != 42 {
		t.Errorf("freshness %+v, %v", f, ok)
	}

	follower.leader.Store(nil)
	_, err = api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{})
	if err == nil || err.Error() != rpc.NoLeader || !errdefs.IsUnavailable(err) {
		t.Errorf("without a leader: %v", err)
	}
	if r := rpc.RefusalOf(err); r.GetNoQuorum().GetNeeded() != 2 || !strings.Contains(r.GetHint(), "m2 (10.0.0.2:2377)") {
		t.Errorf("without a leader the refusal is %v, want who is missing", r)
	}

	_, err = cav1.NewAuthorityClient(cc).Renew(t.Context(), &cav1.RenewRequest{})
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("a user renewed: %v", err)
	}
}

// TestACarrierWhoseCertificateIsOldIsAskedToTryAgain: it has renewed twice in
// quick succession, and its caller is not to hear of that.
func TestACarrierWhoseCertificateIsOldIsAskedToTryAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	carrier := w.node(t, asManager)
	node := carrier.Get().Identity.Node
	cc := w.dial(t, m, carrier)
	_, second := w.issued(t, node, asManager, 2, time.Now(), time.Hour)
	_, third := w.issued(t, node, asManager, 3, time.Now(), time.Hour)
	w.editNode(t, node, func(n *modelv1.Node) { n.Previous, n.Current = second, third })
	forge := metadata.AppendToOutgoingContext(t.Context(), "skep-forwarded", "1", "skep-caller-bin", `{"kind":2,"user":"uid:0"}`)
	_, err := controlv1.NewControlClient(cc).RemoveNode(forge, &controlv1.RemoveNodeRequest{})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), node.String()) {
		t.Errorf("carried by one with an old certificate: %v, want it tried again", err)
	}
}

// TestALearnerIsAskedToTryAgain: it is a member already and not yet a manager, and
// whoever asks it is not to hear that he may not.
func TestALearnerIsAskedToTryAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	learner := w.node(t, asWorker)
	w.update(t, func(tx *store.Tx) error {
		return tx.PutMember(&modelv1.Member{RaftId: 7, Node: learner.Get().Identity.Node.Bytes(), Address: "10.0.0.9:2377"})
	})
	forge := metadata.AppendToOutgoingContext(t.Context(), "skep-forwarded", "1", "skep-caller-bin", `{"kind":2,"user":"uid:0"}`)
	_, err := controlv1.NewControlClient(w.dial(t, m, learner)).RemoveNode(forge, &controlv1.RemoveNodeRequest{})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "is being made a manager") {
		t.Errorf("carried by a learner: %v, want it tried again", err)
	}
}
