package enrol_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

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

// A certificate newer than its record is of a history that a restore cut off.
func TestANodeAheadOfItsRecordRenewsByATokenAndByNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	h := w.node(t, asWorker)
	ahead, _ := w.issued(t, h.Get().Identity.Node, asWorker, 5, time.Now(), time.Hour)
	h.Set(ahead)
	cc := w.dial(t, m, h)
	if _, err := session(t, cc); !errdefs.IsUnauthorized(err) || !strings.Contains(rpc.HintOf(err), "ctl swarm join") {
		t.Errorf("a session: %v (hint %q)", err, rpc.HintOf(err))
	}
	key := newKey(t)
	if _, err := renew(t, cc, key); !errdefs.IsUnauthorized(err) {
		t.Errorf("a renewal without a token: %v", err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	wrong := w.worker
	wrong.Secret = ca.NewTokenSecret()
	ask := func(token ca.Token) (*cav1.Issued, error) {
		resp, err := cav1.NewAuthorityClient(cc).Renew(t.Context(), &cav1.RenewRequest{Csr: csr, Token: token.Reveal()})
		return resp.GetIssued(), err
	}
	if _, err := ask(wrong); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a renewal with a token that is none: %v", err)
	}
	for range 2 { // the answer may have been lost
		if _, err := ask(w.worker); err != nil {
			t.Fatalf("a renewal with a token: %v", err)
		}
	}
	n := w.store.Snapshot().Node(ahead.Identity.Node)
	if got := n.GetCurrent().GetGeneration(); got != 6 {
		t.Errorf("the record is at generation %d, want one above the certificate's 5", got)
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

// TestAStreamThatWasCutTakesNothingInAnyMore, though its handler waits for the next
// word and has not noticed: a manager that was demoted might say its vote.
func TestAStreamThatWasCutTakesNothingInAnyMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	manager := w.node(t, asManager)
	relay, err := dispatchv1.NewDispatchClient(w.dial(t, m, manager)).Relay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Recv(); err != nil {
		t.Fatal(err)
	}
	w.editNode(t, manager.Get().Identity.Node, func(n *modelv1.Node) { n.Role = asWorker })
	m.server.Recheck()
	before := m.relayed.Load()
	if err := relay.Send(&dispatchv1.RelayRequest{}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := relay.Recv(); err == nil {
		t.Error("it goes on")
	}
	if now := m.relayed.Load(); now != before {
		t.Errorf("%d messages were taken in after the cut", now-before)
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

// TestNotValidYetKeepsNobodyOutWhomTheRecordKnows: a leader whose clock was two
// hours ahead has signed.
func TestNotValidYetKeepsNobodyOutWhomTheRecordKnows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	early, record := w.issued(t, id.New(), asManager, 2, time.Now().Add(2*time.Hour), 7*24*time.Hour)
	h := &ca.Holder{}
	h.Set(early)
	m := w.serve(t, h) // who dials it meets a certificate that is not valid yet
	if _, err := session(t, w.dial(t, m, h)); !errdefs.IsPermissionDenied(err) {
		t.Errorf("without a record: %v, want refused", err)
	}
	w.update(t, func(tx *store.Tx) error {
		return tx.PutNode(&modelv1.Node{Id: early.Identity.Node.Bytes(), Role: asManager, Spec: &modelv1.NodeSpec{Role: asManager}, Current: record})
	})
	if _, err := session(t, w.dial(t, m, h)); err != nil {
		t.Errorf("with its record: %v", err)
	}
	if _, err := w.join(t, w.worker, newKey(t), m.address); err != nil {
		t.Errorf("a joiner that meets it: %v", err)
	}
	if _, err := session(t, w.dial(t, m, w.node(t, asWorker))); err != nil {
		t.Errorf("a worker that dials it: %v", err)
	}
	old, _ := w.issued(t, early.Identity.Node, asManager, 1, time.Now().Add(2*time.Hour), 7*24*time.Hour)
	h2 := &ca.Holder{}
	h2.Set(old)
	if _, err := session(t, w.dial(t, m, h2)); !errdefs.IsUnauthorized(err) {
		t.Errorf("another certificate of it, as early and older than the record: %v, want refused", err)
	}
}

// TestAWorkerWhoseCertificateExpiredIsToldBothTimes: whichever clock is wrong, it
// can be seen.
func TestAWorkerWhoseCertificateExpiredIsToldBothTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	for name, at := range map[string]time.Time{"an hour ago": time.Now().Add(-3 * time.Hour), "20 hours ago": time.Now().Add(-22 * time.Hour)} {
		late, record := w.issued(t, id.New(), asWorker, 1, at, 2*time.Hour)
		w.update(t, func(tx *store.Tx) error {
			return tx.PutNode(&modelv1.Node{Id: late.Identity.Node.Bytes(), Role: asWorker, Spec: &modelv1.NodeSpec{Role: asWorker}, Current: record})
		})
		h := &ca.Holder{}
		h.Set(late)
		_, err := session(t, w.dial(t, m, h))
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "expired at "+late.Identity.NotAfter.UTC().Format(time.RFC3339)+", and the clock of manager "+m.holder.Get().Identity.Node.Short()+" says") {
			t.Errorf("expired %s: %v, want to be told both times", name, err)
		}
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
