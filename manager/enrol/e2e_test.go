package enrol_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

const (
	asWorker  = modelv1.Role_ROLE_WORKER
	asManager = modelv1.Role_ROLE_MANAGER
)

func renew(t *testing.T, cc *grpc.ClientConn, key *ecdsa.PrivateKey) (*cav1.Issued, error) {
	t.Helper()
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cav1.NewAuthorityClient(cc).Renew(t.Context(), &cav1.RenewRequest{Csr: csr})
	return resp.GetIssued(), err
}

// session opens one and returns what came of it: nil if it was let in.
func session(t *testing.T, cc *grpc.ClientConn) (dispatchv1.Dispatch_SessionClient, error) {
	t.Helper()
	s, err := dispatchv1.NewDispatchClient(cc).Session(t.Context())
	if err != nil {
		return nil, err
	}
	_, err = s.Recv()
	return s, err
}

func TestTokenBuysACertificateThatWorksAndRenews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))

	key := newKey(t)
	got, err := w.join(t, w.worker, key, "127.0.0.1:1", m.address)
	if err != nil {
		t.Fatal(err)
	}
	who := got.Credential.Identity
	if who.Cluster != w.id || who.Role != asWorker || who.Generation != 1 {
		t.Fatalf("joined as %+v", who)
	}
	again, err := w.join(t, w.worker, key, m.address)
	if err != nil || again.Credential.Identity.Node != who.Node || again.Credential.Identity.Generation != 1 {
		t.Errorf("the same key joined again as %+v, %v: want the same record", again, err)
	}
	n := w.store.Snapshot().Node(who.Node)
	if n.GetSpec().GetRole() != asWorker || n.GetRole() != asWorker || n.GetDescription().GetHostname() != "h1" {
		t.Errorf("the record is %v", n)
	}

	h := &ca.Holder{}
	h.Set(got.Credential)
	cc := w.dial(t, m, h)
	if _, err := session(t, cc); err != nil {
		t.Fatalf("the node's session: %v", err)
	}
	next := newKey(t)
	issued, err := renew(t, cc, next)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := client.Accept(issued, next)
	if err != nil {
		t.Fatal(err)
	}
	if cred.Identity.Generation != 2 || cred.Identity.Node != who.Node {
		t.Errorf("renewed to %+v", cred.Identity)
	}
	// The answer was lost: the old certificate asks for the same key again.
	if _, err := renew(t, w.dial(t, m, h), next); err != nil {
		t.Errorf("repeating a renewal under the former certificate: %v", err)
	}
	if _, err := renew(t, w.dial(t, m, h), newKey(t)); !errdefs.IsUnauthorized(err) {
		t.Errorf("a former certificate got another key certified: %v", err)
	}
}

func TestManagerTokenWantsAManagerAndMakesNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	got, err := w.join(t, w.manager, newKey(t), m.address)
	if err != nil {
		t.Fatal(err)
	}
	n := w.store.Snapshot().Node(got.Credential.Identity.Node)
	if n.GetSpec().GetRole() != asManager || n.GetRole() != asWorker {
		t.Errorf("wants %v is %v: want a worker that is to be a manager", n.GetSpec().GetRole(), n.GetRole())
	}
	if got.Credential.Identity.Role != asManager {
		t.Errorf("certificate for %v", got.Credential.Identity.Role)
	}
	h := &ca.Holder{}
	h.Set(got.Credential)
	relay, err := dispatchv1.NewDispatchClient(w.dial(t, m, h)).Relay(t.Context())
	if err == nil {
		_, err = relay.Recv()
	}
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("a node that is no manager yet did a manager's call: %v", err)
	}
}

func TestJoinersRefuse(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	good := w.serve(t, w.node(t, asManager))
	foreign := other.serve(t, other.node(t, asManager))
	impostor := w.serve(t, w.node(t, asWorker)) // a worker answers at a manager's address
	wrong := w.worker
	wrong.Secret = ca.NewTokenSecret()
	for _, tt := range []struct {
		name   string
		token  ca.Token
		remote string
		is     error
		words  string
	}{
		{"another cluster's manager", w.worker, foreign.address, client.ErrOtherCluster, "does not belong to the swarm of this token"},
		{"a worker that answers for a manager", w.worker, impostor.address, client.ErrNotManager, "not a manager"},
		{"nobody", w.worker, "127.0.0.1:1", client.ErrUnreachable, "cannot be reached"},
		{"a token that was rotated", wrong, good.address, errdefs.ErrPermissionDenied, "rotated or mistyped"},
	} {
		_, err := w.join(t, tt.token, newKey(t), tt.remote)
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), tt.remote) {
			t.Errorf("%s: error %v, want %v with %q and the address", tt.name, err, tt.is, tt.words)
		}
		if err != nil && strings.Contains(err.Error(), tt.token.Reveal()) {
			t.Errorf("%s: the error holds the token", tt.name)
		}
	}
	for n := range w.store.Snapshot().Nodes() {
		if n.GetTokenHash() != nil {
			t.Errorf("node %x came in", n.GetId())
		}
	}
}

func TestJoinerIsToldAboutClocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	past, _ := w.issued(t, id.New(), asManager, 1, time.Now().Add(-3*time.Hour), 2*time.Hour)
	h := &ca.Holder{}
	h.Set(past)
	m := w.serve(t, h)
	_, err := w.join(t, w.worker, newKey(t), m.address)
	if !errors.Is(err, ca.ErrClock) || !strings.Contains(err.Error(), past.Identity.NotAfter.UTC().Format(time.RFC3339)) ||
		!strings.Contains(err.Error(), "clock here says") {
		t.Errorf("error %v, want both times", err)
	}
}

func TestClientsRefuseAWorkerThatAnswersForAManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	impostor := w.serve(t, w.node(t, asWorker))
	_, err := session(t, w.dial(t, impostor, w.node(t, asWorker)))
	if err == nil || !strings.Contains(err.Error(), "worker's certificate") {
		t.Errorf("error %v, want the handshake refused", err)
	}
}

func TestClientsCheckNodeAndKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	holder := w.node(t, asManager)
	m := w.serve(t, holder)
	self := w.node(t, asWorker)
	id1 := holder.Get().Identity
	for _, tt := range []struct {
		name string
		peer rpc.Peer
		ok   bool
	}{
		{"the manager of the list", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{id1.KeySHA256}}, true},
		{"another node", rpc.Peer{Node: id.New()}, false},
		{"another key", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{{1}}}, false},
		{"a key newer than the list", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{{1}}, ListedAt: time.Now().Add(-time.Hour)}, true},
		{"a key older than the list", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{{1}}, ListedAt: time.Now().Add(time.Hour)}, false},
	} {
		cc, err := rpc.Dial(m.address, rpc.ClientTLS(self, tt.peer))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := session(t, cc); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %v", tt.name, err, tt.ok)
		}
		_ = cc.Close()
	}
}

func TestRecordsDecide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	old := w.node(t, asWorker)
	node := old.Get().Identity.Node

	// Three generations on, the first is refused.
	for gen := uint64(2); gen <= 3; gen++ {
		_, record := w.issued(t, node, asWorker, gen, time.Now(), time.Hour)
		w.editNode(t, node, func(n *modelv1.Node) {
			n.Previous, n.Current = n.GetCurrent(), record
			n.Previous.SupersededAt = time.Now().UnixNano()
		})
	}
	if _, err := session(t, w.dial(t, m, old)); !errdefs.IsUnauthorized(err) || rpc.HintOf(err) == "" {
		t.Errorf("an old generation: %v, want refused with a hint", err)
	}

	// One generation on, the former is good for a minute and no longer.
	other := w.node(t, asWorker)
	node = other.Get().Identity.Node
	_, record := w.issued(t, node, asWorker, 2, time.Now(), time.Hour)
	w.editNode(t, node, func(n *modelv1.Node) {
		n.Previous, n.Current = n.GetCurrent(), record
		n.Previous.SupersededAt = time.Now().UnixNano()
	})
	if _, err := session(t, w.dial(t, m, other)); err != nil {
		t.Errorf("a certificate superseded just now: %v", err)
	}
	w.editNode(t, node, func(n *modelv1.Node) { n.Previous.SupersededAt = time.Now().Add(-2 * time.Minute).UnixNano() })
	if _, err := session(t, w.dial(t, m, other)); !errdefs.IsUnauthorized(err) {
		t.Errorf("a certificate superseded two minutes ago: %v, want refused", err)
	}

	// Another key of the same generation is nobody's.
	clone := w.node(t, asWorker)
	forged, _ := w.issued(t, clone.Get().Identity.Node, asWorker, 1, time.Now(), time.Hour)
	h := &ca.Holder{}
	h.Set(forged)
	if _, err := session(t, w.dial(t, m, h)); !errdefs.IsUnauthorized(err) {
		t.Errorf("another key of the generation: %v, want refused", err)
	}

	// No record at all.
	ghost, _ := w.issued(t, id.New(), asManager, 1, time.Now(), time.Hour)
	h.Set(ghost)
	_, err := session(t, w.dial(t, m, h))
	if !errdefs.IsPermissionDenied(err) || rpc.RefusalOf(err).GetMustRejoin() == nil {
		t.Errorf("a node without a record: %v, want to be told to rejoin", err)
	}
}

func TestNewerCertificateMakesAReplicaLookAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	holder := w.node(t, asWorker)
	node := holder.Get().Identity.Node
	cred, record := w.issued(t, node, asWorker, 2, time.Now(), time.Hour)
	h := &ca.Holder{}
	h.Set(cred)
	arrive := func() error { // the entry that the replica lacked comes with the barrier
		n := w.store.Snapshot().Node(node)
		if n.GetCurrent().GetGeneration() == 2 {
			return nil
		}
		w.editNode(t, node, func(n *modelv1.Node) { n.Previous, n.Current = n.GetCurrent(), record })
		return nil
	}
	m.barrier.Store(&arrive)
	if _, err := session(t, w.dial(t, m, h)); err != nil {
		t.Errorf("a certificate newer than the replica: %v", err)
	}
	far, _ := w.issued(t, node, asWorker, 9, time.Now(), time.Hour)
	h.Set(far)
	if _, err := session(t, w.dial(t, m, h)); !errdefs.IsUnauthorized(err) {
		t.Errorf("a certificate of a generation nobody recorded: %v, want refused", err)
	}
}

func TestDemotionAndRemovalCutStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	ctx, stop := context.WithCancel(t.Context())
	watching := make(chan error, 1)
	go func() { watching <- enrol.Watch(ctx, w.store, m.server.Recheck) }()
	defer func() { stop(); <-watching }()

	worker, manager := w.node(t, asWorker), w.node(t, asManager)
	s, err := session(t, w.dial(t, m, worker))
	if err != nil {
		t.Fatal(err)
	}
	relay, err := dispatchv1.NewDispatchClient(w.dial(t, m, manager)).Relay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.editNode(t, manager.Get().Identity.Node, func(n *modelv1.Node) { n.Role = asWorker })
	if _, err := relay.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the relay of a demoted manager: %v, want cut", err)
	}
	w.update(t, func(tx *store.Tx) error {
		return tx.Delete(store.KindNode, worker.Get().Identity.Node.Bytes())
	})
	if _, err := s.Recv(); !errdefs.IsPermissionDenied(err) || rpc.RefusalOf(err).GetMustRejoin() == nil {
		t.Errorf("the session of a removed node: %v, want to be told to rejoin", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("cut after %v, want within a second each", took)
	}
	if _, err := session(t, w.dial(t, m, manager)); err != nil {
		t.Errorf("the demoted one's session as a worker: %v", err)
	}
}

func TestOutOfContactKeepsStreamsAndStartsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	worker := w.node(t, asWorker)
	s, err := session(t, w.dial(t, m, worker))
	if err != nil {
		t.Fatal(err)
	}
	m.contact.Store(false)
	m.server.Recheck()
	if _, err := session(t, w.dial(t, m, worker)); !errdefs.IsUnavailable(err) {
		t.Errorf("a session out of contact: %v, want unavailable", err)
	}
	if err := s.Context().Err(); err != nil {
		t.Errorf("the open stream ended: %v", err)
	}
}

func TestMembersAreHeardWhateverTheRecordLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	peer := w.node(t, asManager)
	node := peer.Get().Identity.Node
	stream := func(h *ca.Holder) error {
		cc, err := rpc.Dial(m.address, rpc.ClientTLS(h, rpc.Peer{Grace: rpc.ExpiredGrace}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cc.Close() }()
		s, err := raftv1.NewRaftClient(cc).Stream(t.Context())
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	if err := stream(peer); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a manager that is no member: %v, want refused", err)
	}
	w.update(t, func(tx *store.Tx) error {
		return tx.PutMember(&modelv1.Member{RaftId: 7, Node: node.Bytes(), Address: "10.0.0.2:2377", Voter: true, Kind: modelv1.MemberKind_MEMBER_KIND_FULL})
	})
	if err := stream(peer); err != nil {
		t.Errorf("a member: %v", err)
	}
	m.contact.Store(false)
	if err := stream(peer); err != nil {
		t.Errorf("a member, out of contact: %v", err)
	}
	m.contact.Store(true)
	ahead, _ := w.issued(t, node, asManager, 5, time.Now(), time.Hour)
	h := &ca.Holder{}
	h.Set(ahead)
	if err := stream(h); err != nil {
		t.Errorf("a member whose certificate is newer than the record: %v", err)
	}
	// Expired since an hour: Raft and its own renewal, nothing else.
	late, record := w.issued(t, node, asManager, 6, time.Now().Add(-3*time.Hour), 2*time.Hour)
	w.editNode(t, node, func(n *modelv1.Node) { n.Current = record })
	h.Set(late)
	if err := stream(h); err != nil {
		t.Errorf("a member whose certificate expired: %v", err)
	}
	if _, err := session(t, w.dial(t, m, h)); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a session with an expired certificate: %v, want refused in words", err)
	}
	if _, err := renew(t, w.dial(t, m, h), newKey(t)); err != nil {
		t.Errorf("an expired member's renewal: %v", err)
	}
}

func TestALearnerHearsThoseWhoInvitedIt(t *testing.T) {
	t.Parallel()
	a := &enrol.Authorizer{Store: store.New(), Invited: func(n id.ID) bool { return n == id.ID{1} }}
	for node, ok := range map[id.ID]bool{{1}: true, {2}: false} {
		err := a.Member(t.Context(), rpc.Proof{Identity: ca.Identity{Node: node, Generation: 1}})
		if (err == nil) != ok {
			t.Errorf("node %s: %v, want ok %v", node, err, ok)
		}
	}
}

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

func TestAKeyEnrolsForOneRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	key := newKey(t)
	if _, err := w.join(t, w.worker, key, m.address); err != nil {
		t.Fatal(err)
	}
	if _, err := w.join(t, w.manager, key, m.address); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the same key with the other token: %v, want refused", err)
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

func TestALoneManagerComesBackFromALongSleep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	late, record := w.issued(t, id.New(), asManager, 1, time.Now().Add(-3*time.Hour), 2*time.Hour)
	node := late.Identity.Node
	w.update(t, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutNode(&modelv1.Node{Id: node.Bytes(), Role: asManager, Spec: &modelv1.NodeSpec{Role: asManager}, Current: record}),
			tx.PutMember(&modelv1.Member{RaftId: 1, Node: node.Bytes(), Address: "10.0.0.1:2377", Voter: true}))
	})
	h := &ca.Holder{}
	h.Set(late)
	m := w.serve(t, h)
	cc, err := rpc.Dial(m.address, rpc.ClientTLS(h, rpc.Peer{Node: node, Grace: rpc.ExpiredGrace}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	key := newKey(t)
	issued, err := renew(t, cc, key)
	if err != nil {
		t.Fatalf("it cannot renew with itself: %v", err)
	}
	if _, err := client.Accept(issued, key); err != nil {
		t.Error(err)
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
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "@"+fid) || !strings.Contains(err.Error(), "via "+fid+": n9") || rpc.HintOf(err) != "look again" {
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

func TestManagerListNamesVotersWithTheirKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.node(t, asManager), w.node(t, asManager)
	w.update(t, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutMember(&modelv1.Member{RaftId: 1, Node: a.Get().Identity.Node.Bytes(), Address: "10.0.0.1:2377", Voter: true}),
			tx.PutMember(&modelv1.Member{RaftId: 2, Node: b.Get().Identity.Node.Bytes(), Address: "10.0.0.2:2377"}))
	})
	list := enrol.ManagerList(w.store.Snapshot())
	if len(list.GetManagers()) != 1 || list.GetIndex() != w.store.Snapshot().Index() || len(list.GetHistory()) == 0 {
		t.Fatalf("list %v, want the one voter", list)
	}
	key := a.Get().Identity.KeySHA256
	if m := list.GetManagers()[0]; m.GetAddress() != "10.0.0.1:2377" || len(m.GetKeys()) != 1 || ca.Digest(m.GetKeys()[0]) != key {
		t.Errorf("manager %v", m)
	}
}
