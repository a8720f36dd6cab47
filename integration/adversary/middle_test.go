package adversary

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// A middle answers at an address as if it were a manager, and keeps what it is told.
type middle struct {
	addr string

	mu    sync.Mutex // guards the fields below; held for memory only
	told  bytes.Buffer
	calls int
}

// answer makes a middle with the certificate of an attacker.
func (a attacker) answer(t *testing.T) *middle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{addr: l.Addr().String()}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: a.chain, PrivateKey: a.key}}, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(tls.Server(raw, config)) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return m
}

// serve keeps all that comes for as long as it comes.
func (m *middle) serve(conn *tls.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon)) // the victim hangs up before
	m.mu.Lock()
	m.calls++
	m.mu.Unlock()
	_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // a manager speaks first; the victim may have hung up
	var told bytes.Buffer
	_, _ = io.Copy(&told, conn) // until the victim hangs up
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told.Write(told.Bytes())
}

// fooled has a machine join with a token at a middle, and checks that it does not,
// says why, and tells nothing.
func (h *host) fooled(t *testing.T, what, token string, m *middle, words string) {
	t.Helper()
	if err := h.joinBy(token, m.addr); err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), m.addr) {
		t.Errorf("%s: %v, want %q and the address", what, err, words)
	}
	info, err := h.local().Info(within(t, soon), &localv1.InfoRequest{})
	if err != nil || info.GetState() != localv1.State_STATE_INACTIVE {
		t.Errorf("%s: the machine is %v, %v", what, info.GetState(), err)
	}
	secret := token[strings.LastIndex(token, "-")+1:]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls == 0 {
		t.Errorf("%s: nobody called", what)
	}
	if bytes.Contains(m.told.Bytes(), []byte(secret)) {
		t.Errorf("%s: it was told the token", what)
	}
}

// TestManInTheMiddleAtJoin: somebody answers at the manager's address with whatever
// certificate he has or makes. Then the root is rotated, and who has the key of the
// former one tries again.
func TestManInTheMiddleAtJoin(t *testing.T) {
	s := attacked(t)
	victim, err := s.host("victim")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.kill()
	manager := s.managers[0].nodeID(t)
	forged, signer := impostor(t, parse(t, s.root.der))
	key := newKey(t)
	foreign := sign(t, namedAs(t, s.id, manager, 1), forged, key, signer)
	worker, _ := s.enrolled(t)
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})

	const other, noManager = "does not belong to the swarm of this token", "is not a manager"
	victim.fooled(t, "a foreign root with the right names", text, attacker{chain: [][]byte{foreign.Raw, forged.Raw}, key: key}.answer(t), other)
	victim.fooled(t, "the same, which shows the true root too", text, attacker{chain: [][]byte{foreign.Raw, forged.Raw, s.root.der}, key: key}.answer(t), other)
	victim.fooled(t, "a worker of the swarm", text, attacker{chain: [][]byte{worker.chain[0], s.root.der}, key: worker.key}.answer(t), noManager)
	stale := s.former.forge(t, ca.Profile{Cluster: s.id, Node: manager, Role: asManager, Generation: 9})
	victim.fooled(t, "who has the former root's key", text, attacker{chain: [][]byte{stale.chain[0], s.former.der, s.root.der}, key: stale.key}.answer(t), other)

	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	fresh, _ := s.token(t, &controlv1.CreateTokenRequest{})
	stale = s.former.forge(t, ca.Profile{Cluster: s.id, Node: manager, Role: asManager, Generation: 9})
	victim.fooled(t, "who has the former root's key, after a rotation", fresh, attacker{chain: [][]byte{stale.chain[0], s.former.der}, key: stale.key}.answer(t), other)
	victim.fooled(t, "the same, which shows the present root too", fresh, attacker{chain: [][]byte{stale.chain[0], s.former.der, s.root.der}, key: stale.key}.answer(t), other)
	alien := s.root.forge(t, ca.Profile{Cluster: id.New(), Node: manager, Role: asWorker, Generation: 1})
	victim.fooled(t, "a leaf of the present root that is no manager's", fresh, attacker{chain: [][]byte{alien.chain[0], s.root.der}, key: alien.key}.answer(t), noManager)

	// With true managers both tokens do what they say.
	for _, token := range []string{text, fresh} {
		if err := victim.joinBy(token, s.managers[1].addr); err != nil {
			t.Fatalf("the machine joins at a true manager: %v", err)
		}
		if _, err := victim.ctl("swarm", "leave", "--force"); err != nil {
			t.Fatal(err)
		}
	}
}
