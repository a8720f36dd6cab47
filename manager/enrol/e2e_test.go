package enrol_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
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
	if issued, err := renew(t, w.dial(t, m, h), newKey(t)); err != nil || issued != nil {
		t.Errorf("a former certificate with another key: %v, %v; want that it waits for an operator", issued, err)
	}
	if wait := w.store.Snapshot().Node(who.Node).GetWait(); !strings.Contains(wait.GetReason(), "restored from an older image, or is a copy") {
		t.Errorf("the operator is told %q", wait.GetReason())
	}
	if _, err := renew(t, w.dial(t, m, h), newKey(t)); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "another machine at 127.0.0.1 waits with this identity") {
		t.Errorf("a third machine: %v, want to be told of the second", err)
	}
	fresh := &ca.Holder{}
	fresh.Set(cred)
	if _, err := session(t, w.dial(t, m, fresh)); err != nil {
		t.Errorf("the one whose certificate is current: %v", err)
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
	if want := "this host's clock is 3h0m0s behind the swarm's, by what manager " + past.Identity.Node.Short() + " says"; !strings.Contains(err.Error(), want) ||
		!strings.Contains(rpc.HintOf(err), "chrony") {
		t.Errorf("error %v, hint %q; want %q and what to do", err, rpc.HintOf(err), want)
	}
}

// TestAJoinerWithAWrongClockUsesNoToken: it could not begin with what it gets.
func TestAJoinerWithAWrongClockUsesNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	csr, err := ca.NewCSR(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(off time.Duration) error {
		cc, err := rpc.Dial(m.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cc.Close() }()
		_, err = cav1.NewAuthorityClient(cc).Enroll(t.Context(), &cav1.EnrollRequest{
			Token: w.worker.Reveal(), Csr: csr, Hostname: "h1", Clock: time.Now().Add(off).UnixNano(),
		})
		return err
	}
	before := w.store.Snapshot().Index()
	for off, words := range map[time.Duration]string{
		-3 * time.Hour: "this host's clock is 3h0m0s behind the swarm's", 100 * 24 * time.Hour: "this host's clock is 2400h0m0s ahead of the swarm's",
	} {
		if err := ask(off); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), words) || rpc.HintOf(err) != rpc.ClockHint {
			t.Errorf("%v off: %v, want refused as %q", off, err, words)
		}
	}
	if now := w.store.Snapshot().Index(); now != before {
		t.Errorf("%d entries were written for joiners that were refused", now-before)
	}
	if err := ask(-30 * time.Minute); err != nil {
		t.Errorf("half an hour off, within what certificates are dated back: %v", err)
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
		{"a key of the second in which the list came", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{{1}}, ListedAt: time.Now().Add(time.Second)}, true},
		{"a key of a clock that is somewhat behind", rpc.Peer{Node: id1.Node, Keys: []ca.Digest{{1}}, ListedAt: time.Now().Add(30 * time.Second)}, true},
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

// TestCertificatesAreGoodThoughLogTimeIsAhead: a leader whose clock was wrong has
// left log time a day ahead of every clock.
func TestCertificatesAreGoodThoughLogTimeIsAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	w.log.Advance(time.Since(w.store.Snapshot().LogTime()) + 24*time.Hour)
	w.editNode(t, m.holder.Get().Identity.Node, func(*modelv1.Node) {}) // an entry, of that time
	if ahead := time.Until(w.store.Snapshot().LogTime()); ahead < 23*time.Hour {
		t.Fatalf("log time is %v ahead, want a day", ahead)
	}
	got, err := w.join(t, w.worker, newKey(t), m.address)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	h := &ca.Holder{}
	h.Set(got.Credential)
	next := newKey(t)
	issued, err := renew(t, w.dial(t, m, h), next)
	if err != nil {
		t.Fatalf("renew: %v", err)
	}
	cred, err := client.Accept(issued, next)
	if err != nil {
		t.Fatalf("a renewed certificate: %v", err)
	}
	h.Set(cred)
	if _, err := session(t, w.dial(t, m, h)); err != nil {
		t.Errorf("a session with it: %v", err)
	}
}
