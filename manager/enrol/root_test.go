package enrol_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// succeed puts another root in the place of the one there is, which the new one
// leads from; both are trusted, or only the new one.
func (w *world) succeed(t *testing.T, both bool) {
	t.Helper()
	c := proto.CloneOf(w.store.Snapshot().Cluster())
	from := &modelv1.RootKey{Certificate: w.root, Key: c.GetRoot().GetKey()}
	s, err := authority.New(authority.Config{Members: enrol.NewMembers(w.db), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	to, cross, err := s.NextRoot(t.Context(), authority.Succession{Cluster: w.id, From: from}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.Root.Certificates, c.Root.Key, c.Root.Via = [][]byte{to.GetCertificate(), w.root}, to.GetKey(), to.GetVia()
	if !both {
		c.Root.Certificates = c.Root.GetCertificates()[:1]
		c.Root.Former = []*modelv1.FormerRoot{{Certificate: w.root, Cross: cross, Until: w.store.Snapshot().Now().Add(time.Hour).UnixNano()}}
	}
	w.update(t, func(tx *store.Tx) error { return tx.PutCluster(c) })
	if w.issuer, err = issue.New(c.GetRoot().GetCertificates(), sealed.NewSecret(to.GetKey())); err != nil {
		t.Fatal(err)
	}
	if w.issuer, err = w.issuer.Via(to.GetVia()); err != nil {
		t.Fatal(err)
	}
}

// TestACertificateOfADroppedRootIsRefusedByTheRecord: at once, by managers whose
// handshakes still take it; open streams are cut.
func TestACertificateOfADroppedRootIsRefusedByTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager)) // it goes on trusting the former root
	old := w.node(t, asWorker)
	cc := w.dial(t, m, old)
	if _, err := session(t, cc); err != nil {
		t.Fatal(err)
	}
	w.succeed(t, true)
	if _, err := session(t, cc); err != nil {
		t.Errorf("while both roots are trusted: %v", err)
	}
	w.update(t, func(tx *store.Tx) error {
		c := proto.CloneOf(tx.Cluster())
		c.Root.Certificates = c.Root.GetCertificates()[:1]
		return tx.PutCluster(c)
	})
	_, err := session(t, cc)
	if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "the root that signed it was rotated") || !strings.Contains(rpc.HintOf(err), "swarm leave --force") {
		t.Errorf("when it is dropped: %v (hint %q)", err, rpc.HintOf(err))
	}
	if _, err := renew(t, cc, newKey(t)); !errdefs.IsUnauthorized(err) {
		t.Errorf("a renewal when it is dropped: %v", err)
	}
	a := &enrol.Authorizer{Store: w.store, InContact: func() bool { return true }}
	if err := a.Member(t.Context(), rpc.Proof{Identity: old.Get().Identity}); err == nil {
		t.Error("it is taken for a member's")
	}
}

// TestATokenFromBeforeARotationLetsIn: who pins the former root follows to the one
// that signs, and trusts that and nothing else.
func TestATokenFromBeforeARotationLetsIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.succeed(t, false)
	m := w.serve(t, w.node(t, asManager))
	res, err := w.join(t, w.worker, newKey(t), m.address)
	if err != nil {
		t.Fatal(err)
	}
	present := w.store.Snapshot().Cluster().GetRoot().GetCertificates()[0]
	if ders := res.Credential.Roots.DER(); len(ders) != 1 || string(ders[0]) != string(present) || !res.Credential.SignedBy(ca.RootDigest(present)) {
		t.Errorf("it trusts %d roots", len(ders))
	}
	w.update(t, func(tx *store.Tx) error {
		c := proto.CloneOf(tx.Cluster())
		c.Root.Former[0].Until = 1
		return tx.PutCluster(c)
	})
	if _, err := w.join(t, w.worker, newKey(t), m.address); !errdefs.IsPermissionDenied(err) {
		t.Errorf("when its root is known no more: %v", err)
	}
}

// TestALostAnswerOfTheFormerRootIsMadeAnew: what was recorded for a root that signs
// no more cannot be signed again; the same key gets the next certificate.
func TestALostAnswerOfTheFormerRootIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	h := w.node(t, asWorker)
	cc := w.dial(t, m, h)
	key := newKey(t)
	if _, err := renew(t, cc, key); err != nil { // and the answer is lost
		t.Fatal(err)
	}
	w.succeed(t, true)
	issued, err := renew(t, cc, key)
	if err != nil {
		t.Fatal(err)
	}
	n := w.store.Snapshot().Node(h.Get().Identity.Node)
	if n.GetCurrent().GetGeneration() != 3 || n.GetPrevious().GetGeneration() != 1 || string(issued.GetRoots()[0]) == string(w.root) {
		t.Errorf("the record has generations %d and %d", n.GetCurrent().GetGeneration(), n.GetPrevious().GetGeneration())
	}
	if again, err := renew(t, cc, key); err != nil || string(again.GetChain()[0]) == "" || w.store.Snapshot().Node(h.Get().Identity.Node).GetCurrent().GetGeneration() != 3 {
		t.Errorf("asked for once more: %v", err)
	}
}
