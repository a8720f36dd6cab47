package adversary

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// An attacker shows a certificate, or none, and knows the key.
type attacker struct {
	chain [][]byte
	key   *ecdsa.PrivateKey
	// from is the address it dials from, one of the loopback's.
	from string
}

// nobody shows no certificate.
func nobody(from string) attacker { return attacker{from: from} }

// tls is what it greets managers with. It takes whoever answers.
func (a attacker) tls() *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	if a.chain != nil {
		c.Certificates = []tls.Certificate{{Certificate: a.chain, PrivateKey: a.key}}
	}
	return c
}

func (a attacker) dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	if a.from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(a.from)}
	}
	return d.DialContext(ctx, "tcp", address)
}

// conn is a connection to a manager.
func (a attacker) conn(t *testing.T, m *host) *grpc.ClientConn {
	t.Helper()
	cc, err := rpc.Dial(m.addr, a.tls(), rpc.Through(a.dial)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// enrolled is a node that joined as anybody with a token does, and of which somebody
// has the key: no daemon runs there.
func (s *swarm) enrolled(t *testing.T) (attacker, *client.Result) {
	t.Helper()
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	token, err := ca.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	got, err := client.Enroll(within(t, soon), client.Join{Token: token, Remotes: []string{s.managers[0].addr}, Key: key, Hostname: "thief", Dial: attacker{from: "127.0.0.77"}.dial})
	if err != nil {
		t.Fatal(err)
	}
	return attacker{chain: got.Credential.Chain, key: key, from: "127.0.0.77"}, got
}

// token makes a join token for workers as ctl does, unless req says another role.
func (s *swarm) token(t *testing.T, req *controlv1.CreateTokenRequest) (text string, made *modelv1.JoinToken) {
	t.Helper()
	secret := ca.NewTokenSecret()
	hash := sha256.Sum256(secret.Reveal())
	req.RequestId, req.SecretHash = requestID(), hash[:]
	if req.GetRole() == 0 {
		req.Role = asWorker
	}
	resp, err := s.managers[0].control().CreateToken(within(t, soon), req)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := ca.DigestFromBytes(resp.GetToken().GetRoot())
	if err != nil {
		t.Fatal(err)
	}
	return ca.Token{Digest: digest, Secret: secret}.Reveal(), resp.GetToken()
}

// user makes a user, and returns his key and what his context holds.
func (s *swarm) user(t *testing.T, name string, role modelv1.UserRole) (attacker, *wallet.Context) {
	t.Helper()
	key := newKey(t)
	resp, err := s.managers[0].control().CreateUser(within(t, soon), &controlv1.CreateUserRequest{RequestId: requestID(), Name: name, Role: role, Csr: csrOf(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	who, err := wallet.New(resp.GetIssued(), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return attacker{chain: who.Credential.Chain, key: key, from: "127.0.0.78"}, who
}

// forge makes a leaf under a root whose key the attacker has, of which there is no
// record.
func (a authority) forge(t *testing.T, p ca.Profile) attacker {
	t.Helper()
	is, err := issue.New([][]byte{a.der}, a.key)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	csr := csrOf(t, key)
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	if p.Lifetime == 0 {
		p.Lifetime = ca.WorkerLifetime
	}
	record, err := is.Prepare(p, pub, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := is.Sign(p.Cluster, p.Node, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	return attacker{chain: chain, key: key, from: "127.0.0.66"}
}

// nodeID is the id of a host's node.
func (h *host) nodeID(t *testing.T) id.ID {
	t.Helper()
	resp, err := h.swarm.managers[0].control().GetNode(within(t, soon), &controlv1.GetNodeRequest{Ref: h.name})
	if err != nil {
		t.Fatal(err)
	}
	x, err := id.FromBytes(resp.GetNode().GetNode().GetId())
	if err != nil {
		t.Fatal(err)
	}
	return x
}
