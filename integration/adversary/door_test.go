package adversary

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// knock greets a manager and returns what it says first, and what became of the
// handshake. Whom it lets in it sends the first frame of HTTP/2.
func knock(t *testing.T, m *host, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	raw, err := attacker{from: "127.0.0.55"}.dial(within(t, soon), m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, c)
	if err := conn.Handshake(); err != nil {
		return conn.ConnectionState(), err
	}
	// A client knows of TLS 1.3 only then whether its certificate was taken.
	frame := make([]byte, 9)
	_, err = io.ReadFull(conn, frame)
	return conn.ConnectionState(), err
}

// locked checks that every manager refuses who shows this in the handshake, and that
// it says so there.
func (s *swarm) locked(t *testing.T, what string, c *tls.Config) {
	t.Helper()
	for _, m := range s.managers {
		_, err := knock(t, m, c)
		if err == nil {
			t.Errorf("%s: %s lets him in", what, m.name)
		} else if !strings.Contains(err.Error(), "remote error: tls: ") {
			t.Errorf("%s: %s ends with %v, want an alert of TLS", what, m.name, err)
		}
	}
}

// self makes a root of the attacker's own that is called as another one.
func impostor(t *testing.T, of *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: of.SerialNumber, RawSubject: of.RawSubject, SubjectKeyId: of.SubjectKeyId,
		NotBefore: of.NotBefore, NotAfter: of.NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: of.KeyUsage}
	return sign(t, template, template, key, key), key
}

func sign(t *testing.T, template, parent *x509.Certificate, holder, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &holder.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

// namedAs is a template of a leaf that says what another one says.
func namedAs(t *testing.T, cluster, node id.ID, generation uint64) *x509.Certificate {
	t.Helper()
	value, err := ca.GenerationValue(generation)
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: node.String(), Organization: []string{cluster.String()}},
		DNSNames:  []string{ca.ManagerName(cluster), ca.NodeName(cluster, node)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{{Id: ca.GenerationOID, Value: value}},
	}
}

// TestForeignCAWithTheRightNames: all that a manager's certificate says, and that its
// root is called, can be read by anybody.
func TestForeignCAWithTheRightNames(t *testing.T) {
	s := attacked(t)
	true1 := parse(t, s.root.der)
	root, signer := impostor(t, true1)
	key := newKey(t)
	leaf := sign(t, namedAs(t, s.id, s.managers[0].nodeID(t), 1), root, key, signer)
	for what, chain := range map[string][][]byte{
		"a leaf":                     {leaf.Raw},
		"a leaf and its root":        {leaf.Raw, root.Raw},
		"a leaf and the true root":   {leaf.Raw, s.root.der},
		"a leaf and both roots":      {leaf.Raw, root.Raw, s.root.der, s.former.der},
		"a leaf that signs itself":   {sign(t, namedAs(t, s.id, s.managers[0].nodeID(t), 1), namedAs(t, s.id, s.managers[0].nodeID(t), 1), key, key).Raw},
		"the root as if it were one": {root.Raw},
	} {
		holder := key
		if what == "the root as if it were one" {
			holder = signer
		}
		s.locked(t, what, attacker{chain: chain, key: holder}.tls())
	}
}

// TestRightCAWrongCluster: an operator gave two swarms one root.
func TestRightCAWrongCluster(t *testing.T) {
	s := attacked(t)
	other := id.New()
	s.locked(t, "a manager of another cluster", s.root.forge(t, ca.Profile{Cluster: other, Node: s.managers[0].nodeID(t), Role: asManager, Generation: 1}).tls())
	s.locked(t, "a worker of another cluster", s.root.forge(t, ca.Profile{Cluster: other, Node: id.New(), Role: asWorker, Generation: 1}).tls())
}

// TestANodeSignsOthers: a leaf and its key are no authority, whatever is put below it.
func TestANodeSignsOthers(t *testing.T) {
	s := attacked(t)
	worker, _ := s.enrolled(t)
	key := newKey(t)
	leaf := sign(t, namedAs(t, s.id, s.managers[0].nodeID(t), 9), parse(t, worker.chain[0]), key, worker.key)
	s.locked(t, "a leaf below a worker's", attacker{chain: [][]byte{leaf.Raw, worker.chain[0], s.root.der}, key: key}.tls())
}

// TestTheFormerRootSigns: who was a manager has its key, and it was rotated.
func TestTheFormerRootSigns(t *testing.T) {
	s := attacked(t)
	for what, p := range map[string]ca.Profile{
		"a manager": {Cluster: s.id, Node: s.managers[0].nodeID(t), Role: asManager, Generation: 9},
		"a worker":  {Cluster: s.id, Node: s.worker.nodeID(t), Role: asWorker, Generation: 9},
	} {
		s.locked(t, what, s.former.forge(t, p).tls())
	}
}

// TestTheRightRootSignsWithoutARecord: who has the root's key makes any certificate,
// and none of them may do anything, on no manager: there is no record of it.
func TestTheRightRootSignsWithoutARecord(t *testing.T) {
	s := attacked(t)
	manager, worker := s.managers[0].nodeID(t), s.worker.nodeID(t)
	for what, p := range map[string]ca.Profile{
		"the present certificate of a manager": {Cluster: s.id, Node: manager, Role: asManager, Generation: 1},
		"the next one of a manager":            {Cluster: s.id, Node: manager, Role: asManager, Generation: 3},
		"one of a manager far ahead":           {Cluster: s.id, Node: manager, Role: asManager, Generation: 1 << 60},
		"a worker that says it is a manager":   {Cluster: s.id, Node: worker, Role: asManager, Generation: 2},
		"a manager that nobody knows":          {Cluster: s.id, Node: id.New(), Role: asManager, Generation: 1},
		"a worker that nobody knows":           {Cluster: s.id, Node: id.New(), Role: asWorker, Generation: 1},
	} {
		forged := s.root.forge(t, p)
		for _, m := range s.managers {
			cc := forged.conn(t, m)
			for name, err := range callAll(t, cc, func(m method) bool { return !everyone(m) && m.path() != cav1.Authority_Renew_FullMethodName }) {
				if isRaft(name) && p.Node == manager && p.Generation >= 3 {
					continue // raft brings the record itself (R14), and grants nothing else
				}
				if !denied(err) {
					t.Errorf("%s calls %s at %s: %v, want denied", what, name, m.name, err)
				}
			}
			// Whose record is there may ask for another, and waits for an operator.
			got, err := renew(t, cc, csrOf(t, newKey(t)))
			if err == nil && got.GetIssued() != nil || err != nil && !denied(err) {
				t.Errorf("%s asks %s for a certificate: %v, %v, want none", what, m.name, got, err)
			}
		}
	}
}

// TestDowngradeToTLS12, and to anything that is not what the house speaks.
func TestDowngradeToTLS12(t *testing.T) {
	s := attacked(t)
	worker, _ := s.enrolled(t)
	for what, weaken := range map[string]func(*tls.Config){
		"TLS 1.2":          func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"TLS 1.0":          func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"another protocol": func(c *tls.Config) { c.NextProtos = []string{"h3"} },
	} {
		for who, a := range map[string]attacker{"a worker": worker, "nobody": nobody("")} {
			c := a.tls()
			weaken(c)
			s.locked(t, what+" by "+who, c)
		}
	}
	// TLS lets a client through that names none, or HTTP/1.1: it is hung up on.
	for _, m := range s.managers {
		for _, protocols := range [][]string{nil, {"http/1.1"}} {
			c := worker.tls()
			c.NextProtos = protocols
			if _, err := knock(t, m, c); err == nil {
				t.Errorf("%s speaks to a client that named %q", m.name, protocols)
			}
		}
	}
}

// TestResumedSession: what was true of a certificate once is asked anew each time.
// Without tickets there is no early data either.
func TestResumedSession(t *testing.T) {
	s := attacked(t)
	worker, _ := s.enrolled(t)
	c := worker.tls()
	c.ServerName = "m1"
	tickets := &counting{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	c.ClientSessionCache = tickets
	for range 3 {
		state, err := knock(t, s.managers[0], c)
		if err != nil {
			t.Fatal(err)
		}
		if state.DidResume {
			t.Error("a session was resumed")
		}
	}
	if tickets.given != 0 {
		t.Errorf("%d tickets were given", tickets.given)
	}
}

type counting struct {
	tls.ClientSessionCache
	given int
}

func (c *counting) Put(key string, cs *tls.ClientSessionState) {
	if cs != nil {
		c.given++
	}
	c.ClientSessionCache.Put(key, cs)
}

// TestSmuggledNamesInACSR: what a request says besides its key reaches no certificate,
// neither the first nor the next.
func TestSmuggledNamesInACSR(t *testing.T) {
	s := attacked(t)
	manager := s.managers[0].nodeID(t)
	generation, err := ca.GenerationValue(77)
	if err != nil {
		t.Fatal(err)
	}
	authorityBits, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	greedy := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: manager.String(), Organization: []string{s.id.String()}, OrganizationalUnit: []string{"swarm-manager"}},
		DNSNames: []string{ca.ManagerName(s.id), ca.NodeName(s.id, manager), ca.UserName(s.id, id.New())},
		ExtraExtensions: []pkix.Extension{
			{Id: ca.GenerationOID, Value: generation},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: authorityBits},
		},
	}
	ask := func(key *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, greedy, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	says := func(when string, chain [][]byte, node id.ID, nth uint64) {
		t.Helper()
		leaf := parse(t, chain[0])
		who, err := ca.FromCert(leaf)
		if err != nil || who.Node != node || who.Node == manager || who.Role != asWorker || who.Generation != nth || leaf.IsCA ||
			len(leaf.DNSNames) != 1 || len(leaf.Subject.OrganizationalUnit) != 0 {
			t.Errorf("%s the certificate says %v, names %q, subject %v: %v", when, who, leaf.DNSNames, leaf.Subject, err)
		}
	}
	key := newKey(t)
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	first, err := enroll(t, nobody("127.0.0.51").conn(t, s.managers[1]), text, ask(key))
	if err != nil {
		t.Fatal(err)
	}
	node, err := id.FromBytes(first.GetIssued().GetNode())
	if err != nil {
		t.Fatal(err)
	}
	says("at first", first.GetIssued().GetChain(), node, 1)
	next := newKey(t)
	renewed, err := renew(t, attacker{chain: first.GetIssued().GetChain(), key: key}.conn(t, s.managers[2]), ask(next))
	if err != nil {
		t.Fatal(err)
	}
	says("renewed", renewed.GetIssued().GetChain(), node, 2)
}

// TestMalformedCSRs: each is refused as what it is, and makes no node.
func TestMalformedCSRs(t *testing.T) {
	s := attacked(t)
	before := s.nodes(t)
	good := csrOf(t, newKey(t))
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte{}, good...)
	broken[len(broken)-1] ^= 1
	large, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, ca.MaxCSRBytes)}}}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := s.token(t, &controlv1.CreateTokenRequest{Uses: 20})
	cc := nobody("127.0.0.52").conn(t, s.managers[0])
	for what, csr := range map[string][]byte{
		"none": nil, "no DER": []byte("-----BEGIN CERTIFICATE REQUEST-----"), "cut short": good[:len(good)-7],
		"more after it": append(append([]byte{}, good...), 0), "another's signature": broken, "too large": large,
		"RSA of 16384 bits": rsaCSR(t, 16384), "RSA of 2048 bits": rsaCSR(t, 2048), "P-224": csrOf(t, p224),
		"a certificate": s.root.der,
	} {
		began := time.Now()
		_, err := enroll(t, cc, text, csr)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "certificate request: ") {
			t.Errorf("%s: %v, want an invalid certificate request", what, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %v to refuse", what, took)
		}
	}
	if _, err := enroll(t, nobody("127.0.0.52").conn(t, s.managers[0]), text, make([]byte, 1<<20)); err == nil {
		t.Error("a request of a megabyte is taken")
	}
	if now := s.nodes(t); now != before {
		t.Errorf("%d nodes were made", now-before)
	}
}

// rsaCSR is a request for an RSA key of so many bits, which nobody has: a request is
// read before its signature is looked at.
func rsaCSR(t *testing.T, bits uint) []byte {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), bits)
	n.Sub(n, big.NewInt(159))
	point, err := asn1.Marshal(struct {
		N *big.Int
		E int
	}{n, 65537})
	if err != nil {
		t.Fatal(err)
	}
	rsa := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}
	type spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	type info struct {
		Version    int
		Subject    asn1.RawValue
		Key        spki
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}
	der, err := asn1.Marshal(struct {
		Info      info
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		info{0, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true}, spki{rsa, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}}, []asn1.RawValue{}},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: make([]byte, bits/8), BitLength: int(bits)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if csr, err := x509.ParseCertificateRequest(der); err != nil || csr.PublicKeyAlgorithm != x509.RSA {
		t.Fatalf("it is no request for an RSA key: %v", err)
	}
	return der
}
