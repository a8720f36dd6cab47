package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"
)

// TestAManagerSealsForARootElsewhere: its certificate goes with the seal, and has to be
// of the root, a manager's, of the cluster, and of that time.
func TestAManagerSealsForARootElsewhere(t *testing.T) {
	t.Parallel()
	der, secret := root(t)
	strange, _ := root(t)
	parsed, err := x509.ParsePKCS8PrivateKey(secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "n"}, DNSNames: []string{"manager.c", "n.c"}, NotBefore: noon, NotAfter: noon.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
		change(c)
		out, err := x509.CreateCertificate(rand.Reader, c, authority, &key.PublicKey, parsed)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(out)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	tr := filled(3)
	export := func(cert *x509.Certificate, change func(*Seal)) []byte {
		var out bytes.Buffer
		e := NewExport(&out, Head{Cluster: "c", History: "h", Roots: [][]byte{der}})
		for _, line := range tr.After(0) {
			e.Line(line)
		}
		s := &Seal{Cluster: "c", History: "h", Seq: tr.Last(), Hash: tr.Head(), At: noon.Add(time.Minute)}
		if err := s.SignAs(ForExport, [][]byte{strange, der}, cert, key); err != nil {
			t.Fatal(err)
		}
		change(s)
		if err := e.End(s); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	none, asIs := func(*x509.Certificate) {}, func(*Seal) {}
	// In the trail it is a checkpoint, and its line is kept as it is.
	check := &Seal{Cluster: "c", History: "h", Seq: tr.Last(), Hash: tr.Head(), At: noon.Add(time.Minute)}
	if err := check.SignAs(ForTrail, [][]byte{der}, leaf(none), key); err != nil {
		t.Fatal(err)
	}
	tr.Append(Record{Index: 9, At: noon, Who: Swarm, Did: Checkpoint, Result: Done, Seal: check})
	good := export(leaf(none), asIs)
	r, err := Verify(bytes.NewReader(good), [][]byte{der})
	if err != nil || r.Checkpoints != 1 || len(r.Seal.Manager) == 0 || r.Seal.Root != HashOf(der) {
		t.Errorf("a good one: %+v, %v", r, err)
	}
	var broken *Broken
	if _, err := Verify(bytes.NewReader(good), [][]byte{strange}); !errors.As(err, &broken) {
		t.Errorf("under another root: %v", err)
	}
	for name, bad := range map[string][]byte{
		"a worker's":           export(leaf(func(c *x509.Certificate) { c.DNSNames = c.DNSNames[1:] }), asIs),
		"another cluster's":    export(leaf(func(c *x509.Certificate) { c.DNSNames = []string{"manager.d"} }), asIs),
		"over by then":         export(leaf(func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Second) }), asIs),
		"an authority's":       export(leaf(func(c *x509.Certificate) { c.IsCA = true }), asIs),
		"nobody's":             export(leaf(none), func(s *Seal) { s.Manager = []byte("x") }),
		"passed off as root's": export(leaf(none), func(s *Seal) { s.Manager = nil }),
		"with another's":       export(leaf(none), func(s *Seal) { s.Manager = leaf(none).Raw }),
	} {
		if _, err := Verify(bytes.NewReader(bad), [][]byte{der}); !errors.As(err, &broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&Seal{}).SignAs(ForExport, [][]byte{strange}, leaf(none), key); err == nil {
		t.Error("it was sealed for a root that has not certified the manager")
	}
}
