package issue

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/cfssl/config"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t testing.TB, key any, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newIssuer(t testing.TB, cluster id.ID, now time.Time) *Issuer {
	t.Helper()
	root, key, err := NewRoot(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	is, err := New([][]byte{root}, key)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func profile(cluster id.ID, role modelv1.Role) ca.Profile {
	return ca.Profile{Cluster: cluster, Node: id.New(), Role: role, Generation: 7, Lifetime: ca.Lifetime(role, nil)}
}

func TestOneRecordGivesEquivalentCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cluster := id.New()
	is := newIssuer(t, cluster, now)
	key := newKey(t)
	csr := newCSR(t, key, &x509.CertificateRequest{})
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	p := profile(cluster, modelv1.Role_ROLE_MANAGER)
	record, err := is.Prepare(p, pub, now)
	if err != nil {
		t.Fatal(err)
	}
	var tbs [][]byte
	for range 2 {
		// A second request of the same key, by another leader's issuer.
		chain, err := is.Sign(cluster, p.Node, record, newCSR(t, key, &x509.CertificateRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		tbs = append(tbs, leaf.RawTBSCertificate)
	}
	if !bytes.Equal(tbs[0], tbs[1]) {
		t.Error("the same record was signed into certificates that say different things")
	}
}

func TestNothingOfTheRequestButItsKeyIsSigned(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cluster := id.New()
	is := newIssuer(t, cluster, now)
	isCA, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	gen, err := ca.GenerationValue(99)
	if err != nil {
		t.Fatal(err)
	}
	hostile := newCSR(t, newKey(t), &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: id.New().String(), Organization: []string{"other"}, OrganizationalUnit: []string{"managers"}},
		DNSNames:    []string{ca.ManagerName(cluster)},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA},
			{Id: ca.GenerationOID, Value: gen},
		},
	})
	pub, err := ca.ParseCSR(hostile)
	if err != nil {
		t.Fatal(err)
	}
	p := profile(cluster, modelv1.Role_ROLE_WORKER)
	record, err := is.Prepare(p, pub, now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := is.Sign(cluster, p.Node, record, hostile)
	if err != nil {
		// cfssl refuses requests that ask to be an authority.
		if strings.Contains(err.Error(), "Policy") || strings.Contains(err.Error(), "policy") {
			return
		}
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	who, err := ca.FromCert(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if who.Role != modelv1.Role_ROLE_WORKER || who.Generation != p.Generation || who.Node != p.Node || leaf.IsCA {
		t.Errorf("the leaf says %+v, want what was prepared", who)
	}
	if !slices.Equal(leaf.DNSNames, p.Names()) || len(leaf.IPAddresses) != 0 || len(leaf.Subject.OrganizationalUnit) != 0 {
		t.Errorf("names %q addresses %v subject %s: want only %q", leaf.DNSNames, leaf.IPAddresses, leaf.Subject, p.Names())
	}
}

func TestNoProfileCopiesExtensions(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*config.SigningProfile{"root": rootProfile(), "leaf": leafProfile()} {
		if p.CopyExtensions {
			t.Errorf("%s profile sets copy_extensions: a request would write its own extensions (cfssl 1.6.5 lacks the fix)", name)
		}
		w := p.CSRWhitelist
		if w == nil {
			t.Errorf("%s profile has no whitelist: a request would write its own names", name)
			continue
		}
		if w.Subject || w.DNSNames || w.IPAddresses || w.EmailAddresses || w.URIs {
			t.Errorf("%s profile lets names of the request through", name)
		}
	}
}

func TestTheCertificateIsAsTheRulesSay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cluster := id.New()
	is := newIssuer(t, cluster, now)
	for _, tt := range []struct {
		role   modelv1.Role
		life   time.Duration
		before time.Duration
		names  int
	}{
		{modelv1.Role_ROLE_WORKER, ca.WorkerLifetime, time.Hour, 1},
		{modelv1.Role_ROLE_MANAGER, ca.ManagerLifetime, time.Hour, 2},
	} {
		csr := newCSR(t, newKey(t), &x509.CertificateRequest{})
		pub, _ := ca.ParseCSR(csr)
		p := profile(cluster, tt.role)
		record, err := is.Prepare(p, pub, now)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := is.Sign(cluster, p.Node, record, csr)
		if err != nil {
			t.Fatal(err)
		}
		leaf, _ := x509.ParseCertificate(chain[0])
		if got := leaf.NotAfter.Sub(now).Round(time.Minute); got != tt.life {
			t.Errorf("%v lives %v, want %v", tt.role, got, tt.life)
		}
		if got := now.Sub(leaf.NotBefore).Round(time.Minute); got != tt.before {
			t.Errorf("%v begins %v before its issue, want %v", tt.role, got, tt.before)
		}
		if len(leaf.DNSNames) != tt.names {
			t.Errorf("%v carries the names %q, want %d", tt.role, leaf.DNSNames, tt.names)
		}
		if leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 || leaf.IsCA {
			t.Errorf("%v: algorithm %v, authority %v", tt.role, leaf.SignatureAlgorithm, leaf.IsCA)
		}
	}
}

func TestSignRefusesWhatWasNotRecorded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cluster := id.New()
	is, other := newIssuer(t, cluster, now), newIssuer(t, cluster, now)
	csr := newCSR(t, newKey(t), &x509.CertificateRequest{})
	pub, _ := ca.ParseCSR(csr)
	p := profile(cluster, modelv1.Role_ROLE_WORKER)
	record, err := is.Prepare(p, pub, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := is.Sign(cluster, p.Node, record, newCSR(t, newKey(t), &x509.CertificateRequest{})); err == nil {
		t.Error("another key was signed under the record")
	}
	if _, err := other.Sign(cluster, p.Node, record, csr); err == nil {
		t.Error("another root signed the record")
	}
	forged := bytes.Clone(csr)
	forged[len(forged)-1] ^= 1
	if _, err := is.Sign(cluster, p.Node, record, forged); err == nil {
		t.Error("a request was signed whose maker does not hold the key")
	}
}

func TestParseCSRRefusesOtherKeys(t *testing.T) {
	t.Parallel()
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"rsa":   newCSR(t, weak, &x509.CertificateRequest{}),
		"p384":  newCSR(t, p384, &x509.CertificateRequest{}),
		"empty": nil,
		"long":  make([]byte, ca.MaxCSRBytes+1),
	} {
		if _, err := ca.ParseCSR(der); err == nil {
			t.Errorf("a request with %s was taken", name)
		}
	}
	forged := newCSR(t, newKey(t), &x509.CertificateRequest{})
	forged[len(forged)-1] ^= 1
	if _, err := ca.ParseCSR(forged); err == nil {
		t.Error("a request with a bad signature was taken")
	}
}

func TestNewIssuerNeverQuotesTheKey(t *testing.T) {
	t.Parallel()
	root, key, err := NewRoot(id.New(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", key, key, key); strings.ReplaceAll(strings.ReplaceAll(s, "[secret]", ""), " ", "") != "" {
		t.Errorf("the key prints as %q", s)
	}
	other, _, err := NewRoot(id.New(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New([][]byte{other}, key); err == nil {
		t.Error("a key was taken for another root's")
	}
	if _, err := New([][]byte{root}, key); err != nil {
		t.Error(err)
	}
}

// BenchmarkSign is what a renewal takes of the processor: the request is read,
// the record is made and the certificate is signed and checked.
func BenchmarkSign(b *testing.B) {
	now := time.Now()
	cluster := id.New()
	is := newIssuer(b, cluster, now)
	csr := newCSR(b, newKey(b), &x509.CertificateRequest{})
	p := profile(cluster, modelv1.Role_ROLE_WORKER)
	b.ReportAllocs()
	for b.Loop() {
		pub, err := ca.ParseCSR(csr)
		if err != nil {
			b.Fatal(err)
		}
		record, err := is.Prepare(p, pub, now)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := is.Sign(cluster, p.Node, record, csr); err != nil {
			b.Fatal(err)
		}
	}
}
