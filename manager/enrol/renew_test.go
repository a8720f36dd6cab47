package enrol_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ended is a node whose certificate has ended some time ago.
func (w *world) ended(t *testing.T, ago time.Duration) ca.Identity {
	t.Helper()
	cred, record := w.issued(t, id.New(), asWorker, 1, time.Now().Add(-ago-time.Hour), time.Hour)
	w.update(t, func(tx *store.Tx) error {
		return tx.PutNode(&modelv1.Node{Id: cred.Identity.Node.Bytes(), Role: asWorker, Spec: &modelv1.NodeSpec{Role: asWorker}, Current: record})
	})
	return cred.Identity
}

// ask asks for the next certificate of who, with a key.
func (w *world) ask(t *testing.T, who ca.Identity, key ca.PublicKey) (authority.Admission, error) {
	t.Helper()
	return enrol.NewMembers(w.db).Renew(t.Context(), authority.Renewal{Caller: who, Key: key, Address: "10.0.0.9"},
		func(node id.ID, role modelv1.Role, generation uint64, now time.Time) (*modelv1.Certificate, error) {
			return w.issuer.Prepare(ca.Profile{Cluster: w.id, Node: node, Role: role, Generation: generation, Lifetime: time.Hour}, key, now)
		})
}

func publicKey(t *testing.T) ca.PublicKey {
	t.Helper()
	csr, err := ca.NewCSR(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func (w *world) set(t *testing.T, spec *modelv1.ClusterSpec) {
	t.Helper()
	w.update(t, func(tx *store.Tx) error {
		c := proto.CloneOf(tx.Cluster())
		c.Spec = spec
		return tx.PutCluster(c)
	})
}

func TestWhoMayRenewWhatHasEnded(t *testing.T) {
	t.Parallel()
	const approve, never = modelv1.ExpiredRenewal_EXPIRED_RENEWAL_APPROVE, modelv1.ExpiredRenewal_EXPIRED_RENEWAL_NEVER
	for _, tt := range []struct {
		name  string
		mode  modelv1.ExpiredRenewal
		grace time.Duration
		ago   time.Duration
		waits bool
		words string // of the refusal
	}{
		{name: "by itself", ago: 20 * time.Hour},
		{name: "by itself, within the grace", ago: 50 * time.Minute, grace: time.Hour},
		{name: "after the grace", ago: 70 * time.Minute, grace: time.Hour, words: "lets nodes renew for 1h0m0s after that"},
		{name: "when accepted", mode: approve, ago: time.Hour, waits: true},
		{name: "not even when accepted, after the grace", mode: approve, ago: 3 * time.Hour, grace: time.Hour, words: "lets nodes renew for 1h0m0s after that"},
		{name: "never", mode: never, ago: time.Second, words: "lets no node renew after that"},
		{name: "one that has not ended, never", mode: never, ago: -time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.set(t, &modelv1.ClusterSpec{ExpiredRenewal: tt.mode, ExpiredGrace: int64(tt.grace)})
			who := w.ended(t, tt.ago)
			a, err := w.ask(t, who, publicKey(t))
			switch {
			case tt.words != "":
				if err == nil || !strings.Contains(err.Error(), tt.words) || a.Record != nil {
					t.Errorf("%v, want refused as %q", err, tt.words)
				}
			case err != nil || (a.Record == nil) != tt.waits:
				t.Errorf("%v, record %v; want that it waits: %v", err, a.Record, tt.waits)
			}
		})
	}
}

// TestAnAcceptedNodeGetsOneCertificateForTheKeyThatWasShown.
func TestAnAcceptedNodeGetsOneCertificateForTheKeyThatWasShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(t, &modelv1.ClusterSpec{ExpiredRenewal: modelv1.ExpiredRenewal_EXPIRED_RENEWAL_APPROVE})
	who, key := w.ended(t, time.Hour), publicKey(t)
	if a, err := w.ask(t, who, key); err != nil || a.Record != nil {
		t.Fatalf("%v, %v; want that it waits", a.Record, err)
	}
	shown := w.store.Snapshot().Node(who.Node).GetWait()
	if string(shown.GetKey()) != string(key.SHA256[:]) || shown.GetFrom() != "10.0.0.9" || !strings.Contains(shown.GetReason(), "ended at") {
		t.Errorf("the operator is shown %v", shown)
	}
	before := w.store.Snapshot().Index()
	if _, err := w.ask(t, who, key); err != nil || w.store.Snapshot().Index() != before {
		t.Errorf("asked again: %v, %d entries; want none", err, w.store.Snapshot().Index()-before)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) { n.Wait.Verdict = modelv1.RenewalWait_VERDICT_ACCEPTED })
	if a, err := w.ask(t, who, publicKey(t)); err != nil || a.Record != nil {
		t.Errorf("another key than the accepted one: %v, %v; want that it waits", a.Record, err)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) {
		n.Wait = proto.CloneOf(shown)
		n.Wait.Verdict = modelv1.RenewalWait_VERDICT_ACCEPTED
	})
	a, err := w.ask(t, who, key)
	if err != nil || a.Record.GetGeneration() != 2 {
		t.Fatalf("%v, %v; want generation 2", a.Record, err)
	}
	if b, err := w.ask(t, who, key); err != nil || !proto.Equal(a.Record, b.Record) {
		t.Errorf("the answer was lost: %v, %v; want the same record", b.Record, err)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) {
		n.Wait = &modelv1.RenewalWait{Verdict: modelv1.RenewalWait_VERDICT_REJECTED}
		n.Revoked = 2
	})
	if _, err := w.ask(t, who, key); err == nil || !strings.Contains(err.Error(), "an operator does not let it renew") {
		t.Errorf("after a rejection: %v", err)
	}
}

// TestARecordThatEndedBeforeItsAnswerCameIsMadeAnew: the node asks with the key it
// has kept, and would get the ended certificate for ever.
func TestARecordThatEndedBeforeItsAnswerCameIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	who, key := w.ended(t, 2*time.Hour), publicKey(t)
	lost, err := w.issuer.Prepare(ca.Profile{Cluster: w.id, Node: who.Node, Role: asWorker, Generation: 2, Lifetime: time.Hour}, key, time.Now().Add(-90*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) { n.Previous, n.Current = n.GetCurrent(), lost })
	a, err := w.ask(t, who, key)
	if err != nil || a.Record.GetGeneration() != 3 || a.Record.GetNotAfter() < time.Now().UnixNano() {
		t.Errorf("%v, %v; want a third generation that lives", a.Record, err)
	}
	n := w.store.Snapshot().Node(who.Node)
	if n.GetPrevious().GetGeneration() != 1 {
		t.Errorf("the slot before it is generation %d, want the one that the node has", n.GetPrevious().GetGeneration())
	}
}

// TestAJoinTokenVouchesForWhoComesTooLate.
func TestAJoinTokenVouchesForWhoComesTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(t, &modelv1.ClusterSpec{ExpiredRenewal: modelv1.ExpiredRenewal_EXPIRED_RENEWAL_NEVER})
	who, key := w.ended(t, time.Hour), publicKey(t)
	ask := func(role modelv1.Role) error {
		_, err := enrol.NewMembers(w.db).Renew(t.Context(), authority.Renewal{Caller: who, Key: key, Invitation: &authority.Invitation{Role: role}},
			func(node id.ID, role modelv1.Role, generation uint64, now time.Time) (*modelv1.Certificate, error) {
				return w.issuer.Prepare(ca.Profile{Cluster: w.id, Node: node, Role: role, Generation: generation, Lifetime: time.Hour}, key, now)
			})
		return err
	}
	if err := ask(0); err == nil {
		t.Error("a token that is none vouched")
	}
	if err := ask(asWorker); err != nil {
		t.Errorf("with the standing token: %v", err)
	}
}

func TestARevokedCertificateOpensNothingButTheQuestionForAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	h := w.node(t, asWorker)
	who := h.Get().Identity
	s, err := session(t, w.dial(t, m, h))
	if err != nil {
		t.Fatal(err)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) { n.Revoked, n.RevokedAt = 1, time.Now().UnixNano() })
	m.server.Recheck()
	if _, err := s.Recv(); err == nil || !strings.Contains(err.Error(), "were revoked at") {
		t.Errorf("the open stream: %v, want cut in words", err)
	}
	if _, err := session(t, w.dial(t, m, h)); err == nil || !strings.Contains(err.Error(), "were revoked at") {
		t.Errorf("another stream: %v, want refused in words", err)
	}
	if issued, err := renew(t, w.dial(t, m, h), newKey(t)); err != nil || issued != nil {
		t.Errorf("renewal: %v, %v; want that it waits", issued, err)
	}
	w.editNode(t, who.Node, func(n *modelv1.Node) { n.Previous, n.Current = n.GetCurrent(), &modelv1.Certificate{Generation: 2} })
	if _, err := session(t, w.dial(t, m, h)); err == nil {
		t.Error("the revoked certificate counts as the former one")
	}
	if w.store.Snapshot().Node(who.Node).GetWait() == nil {
		t.Error("nobody can see that it waits")
	}
}
