package issue_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

// A pair is a root and its key.
type pair struct {
	der []byte
	key sealed.Secret
}

func roots(t *testing.T, n int) []pair {
	t.Helper()
	cluster, now := id.New(), time.Now()
	der, key, err := issue.NewRoot(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	out := []pair{{der, key}}
	for len(out) < n {
		if der, key, err = issue.NextRoot(cluster, now.Add(time.Duration(len(out))*time.Minute)); err != nil {
			t.Fatal(err)
		}
		out = append(out, pair{der, key})
	}
	return out
}

func cross(t *testing.T, from, to pair) []byte {
	t.Helper()
	der, err := issue.Cross(from.der, from.key, to.der)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestWhoTrustsAFormerRootFollows: by what goes with a leaf, through as many
// rotations as there may be, and by nothing less.
func TestWhoTrustsAFormerRootFollows(t *testing.T) {
	t.Parallel()
	r := roots(t, issue.MaxFormer+2)
	var formers []ca.Former
	for i := 1; i < len(r); i++ {
		formers = append([]ca.Former{{Root: r[i-1].der, Cross: cross(t, r[i-1], r[i])}}, formers...)
		for n, f := range formers {
			err := issue.Leads(f.Root, ca.Via(formers), r[i].der, r[i].key, time.Now())
			if n < issue.MaxFormer && err != nil {
				t.Errorf("after %d rotations who trusts the root before %d of them is lost: %v", i, n+1, err)
			}
			if n >= issue.MaxFormer && err == nil {
				t.Errorf("after %d rotations the root before all of them still counts", i)
			}
			if issue.Leads(f.Root, nil, r[i].der, r[i].key, time.Now()) == nil || n > 0 && issue.Leads(f.Root, ca.Via(formers[n:]), r[i].der, r[i].key, time.Now()) == nil {
				t.Errorf("after %d rotations, what leads from root %d is not needed", i, i-1-n)
			}
		}
	}
	if got := ca.Formers(ca.Via(formers)); len(got) != len(formers) || string(got[1].Root) != string(formers[1].Root) || string(got[1].Cross) != string(formers[1].Cross) {
		t.Error("what leads on is not read as it was written")
	}
}

func TestACrossSaysOfARootWhatItSaysOfItself(t *testing.T) {
	t.Parallel()
	r := roots(t, 2)
	x, err := x509.ParseCertificate(cross(t, r[0], r[1]))
	if err != nil {
		t.Fatal(err)
	}
	from, to := parsed(t, r[0].der), parsed(t, r[1].der)
	if string(x.RawSubject) != string(to.RawSubject) || string(x.SubjectKeyId) != string(to.SubjectKeyId) || !to.PublicKey.(*ecdsa.PublicKey).Equal(x.PublicKey) {
		t.Errorf("it certifies %s", x.Subject)
	}
	if x.CheckSignatureFrom(from) != nil || !x.IsCA || x.NotAfter.After(from.NotAfter) || x.NotAfter.After(to.NotAfter) || x.NotBefore.Before(from.NotBefore) {
		t.Errorf("it is valid from %v to %v, and signed: %v", x.NotBefore, x.NotAfter, x.CheckSignatureFrom(from))
	}
	if from.Subject.String() == to.Subject.String() {
		t.Error("two roots have one name")
	}
}

func parsed(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARootThatCannotBeOneIsRefused(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(k any) sealed.Secret {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return sealed.NewSecret(der)
	}
	good := func() *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example"}, NotBefore: now.Add(-time.Second), NotAfter: now.Add(365 * 24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	self := func(c *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	if err := issue.CheckRoot(self(good()), secret(key), now); err != nil {
		t.Errorf("a good one: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*x509.Certificate)) []byte {
		c := good()
		change(c)
		return self(c)
	}
	signed, err := x509.CreateCertificate(rand.Reader, good(), &x509.Certificate{Subject: pkix.Name{CommonName: "above"}}, &key.PublicKey, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		der  []byte
		key  sealed.Secret
		says string
	}{
		"another's key":          {self(good()), secret(other), "the key is not that of"},
		"an RSA key":             {self(good()), secret(weak), "the key is not that of"},
		"no key":                 {self(good()), sealed.NewSecret([]byte("hidden")), "not readable"},
		"no certificate":         {[]byte("x"), secret(key), "root certificate"},
		"no authority":           {changed(func(c *x509.Certificate) { c.IsCA = false }), secret(key), "not an authority's"},
		"what a root has signed": {signed, secret(key), "does not sign itself"},
		"may not sign":           {changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), secret(key), "may not sign"},
		"may sign leaves only":   {changed(func(c *x509.Certificate) { c.MaxPathLenZero = true }), secret(key), "path length is 0"},
		"not yet valid":          {changed(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }), secret(key), "is valid from"},
		"over soon":              {changed(func(c *x509.Certificate) { c.NotAfter = now.Add(time.Hour) }), secret(key), "is over at"},
	} {
		err := issue.CheckRoot(tt.der, tt.key, now)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

// TestALeafIsNeverOlderThanWhatLeadsToIt: it is judged at its own beginning, and a
// root that an operator gave may be minutes old.
func TestALeafIsNeverOlderThanWhatLeadsToIt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	der, key, err := issue.NewRoot(id.New(), now.Add(24*time.Hour)) // backdated by a day: it begins now
	if err != nil {
		t.Fatal(err)
	}
	next := roots(t, 1)[0]
	x := cross(t, pair{der, key}, next)
	if err := issue.Leads(der, ca.Via([]ca.Former{{Root: der, Cross: x}}), next.der, next.key, now.Add(time.Minute)); err != nil {
		t.Error(err)
	}
}
