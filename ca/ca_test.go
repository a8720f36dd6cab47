package ca_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestTokensReadBackAsWritten(t *testing.T) {
	t.Parallel()
	for _, d := range []ca.Digest{{}, {31: 1}, ca.RootDigest([]byte("x")), {0: 0xff, 1: 0xff, 31: 0xff}} {
		want := ca.Token{Digest: d, Secret: ca.NewTokenSecret()}
		text := want.Reveal()
		if len(text) != len("SWMTKN-1--")+50+25 {
			t.Errorf("token of %d characters: %d digits are missing", len(text), len("SWMTKN-1--")+75-len(text))
		}
		got, err := ca.ParseToken(text + "\n")
		if err != nil || got.Digest != d || !got.Secret.Equal(want.Secret) {
			t.Errorf("read back %v, %v; want %v", got, err, want)
		}
	}
}

// TestATokenCarriesThatTheClusterAsksForFIPSMode: as Swarm's do, and a program that
// knows no such mode refuses it.
func TestATokenCarriesThatTheClusterAsksForFIPSMode(t *testing.T) {
	t.Parallel()
	want := ca.Token{Digest: ca.RootDigest([]byte("x")), Secret: ca.NewTokenSecret(), FIPS: true}
	text := want.Reveal()
	got, err := ca.ParseToken(text)
	if err != nil || !strings.HasPrefix(text, "SWMTKN-2-1-") || !got.FIPS || got.Digest != want.Digest || !got.Secret.Equal(want.Secret) {
		t.Errorf("read back %v, %v; want %v", got, err, want)
	}
	for _, other := range []string{"SWMTKN-2-0-", "SWMTKN-3-1-", "SWMTKN-1-1-", "TOKEN-2-1-"} {
		if got, err := ca.ParseToken(strings.Replace(text, "SWMTKN-2-1-", other, 1)); err == nil {
			t.Errorf("%s is taken for %v", other, got)
		}
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	t.Parallel()
	tok := ca.Token{Secret: sealed.NewSecret([]byte("0123456789abcdef"))}
	secret := tok.Reveal()[len(tok.Reveal())-25:]
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(format, tok); strings.Contains(s, secret) || strings.Contains(s, "0123456789abcdef") {
			t.Errorf("%s prints %s", format, s)
		}
	}
}

func TestBrokenTokensAreRefusedWithoutQuotingThem(t *testing.T) {
	t.Parallel()
	good := ca.Token{Digest: ca.RootDigest(nil), Secret: ca.NewTokenSecret()}.Reveal()
	p := strings.Split(good, "-")
	for name, bad := range map[string]string{
		"nothing":         "",
		"three parts":     strings.Join(p[:3], "-"),
		"other prefix":    strings.Join([]string{"TOKEN", p[1], p[2], p[3]}, "-"),
		"newer format":    strings.Join([]string{p[0], "2", p[2], p[3]}, "-"),
		"short digest":    strings.Join([]string{p[0], p[1], p[2][1:], p[3]}, "-"),
		"too great":       strings.Join([]string{p[0], p[1], strings.Repeat("z", 50), p[3]}, "-"),
		"capitals":        strings.Join([]string{p[0], p[1], strings.Repeat("A", 50), p[3]}, "-"),
		"sign":            strings.Join([]string{p[0], p[1], "+" + p[2][1:], p[3]}, "-"),
		"great secret":    strings.Join([]string{p[0], p[1], p[2], strings.Repeat("z", 25)}, "-"),
		"secret in sight": strings.Join([]string{p[0], p[1], p[2], p[3] + "0"}, "-"),
	} {
		_, err := ca.ParseToken(bad)
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if strings.Contains(err.Error(), p[3]) || strings.Contains(err.Error(), "zzzz") {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(ca.Token{Digest: ca.RootDigest(nil), Secret: sealed.NewSecret(make([]byte, ca.TokenSecretSize))}.Reveal())
	f.Add("SWMTKN-1--")
	f.Add("SWMTKN-1-" + strings.Repeat("z", 50) + "-" + strings.Repeat("z", 25))
	f.Add("SWMTKN-2-1-0-0")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ca.ParseToken(s)
		if err == nil && tok.Reveal() != strings.TrimSpace(s) {
			t.Errorf("%q reads as a token that is written differently", s)
		}
	})
}

func FuzzParseCSR(f *testing.F) {
	key, err := ca.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add(csr[:len(csr)/2])
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := ca.ParseCSR(der)
		if err != nil {
			return
		}
		if _, err := x509.ParsePKIXPublicKey(pub.DER); err != nil {
			t.Errorf("a request was taken whose key cannot be read: %v", err)
		}
	})
}

func TestRenewAtStaysInItsWindow(t *testing.T) {
	t.Parallel()
	issued := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, life := range []time.Duration{time.Minute, ca.ManagerLifetime, ca.WorkerLifetime} {
		for _, roll := range []float64{0, 0.3, math.Nextafter(1, 0)} {
			share := float64(ca.RenewAt(issued, issued.Add(life), roll).Sub(issued)) / float64(life)
			if share < 0.5 || share > 0.8 {
				t.Errorf("life %v roll %v: renewal at %v of it, want 0.5 to 0.8", life, roll, share)
			}
		}
	}
}

func TestBackdateIsAnHourAtMost(t *testing.T) {
	t.Parallel()
	for life, want := range map[time.Duration]time.Duration{
		time.Minute: 6 * time.Second, ca.MinExpiry: time.Minute, 10 * time.Hour: time.Hour, ca.WorkerLifetime: time.Hour,
	} {
		if got := ca.Backdate(life); got != want {
			t.Errorf("life %v: backdated %v, want %v", life, got, want)
		}
	}
}

func TestManagersLiveSevenDaysWhateverTheWorkersExpiry(t *testing.T) {
	t.Parallel()
	spec := &modelv1.ClusterSpec{CertExpiry: int64(time.Hour)}
	if got := ca.Lifetime(modelv1.Role_ROLE_MANAGER, spec); got != 7*24*time.Hour {
		t.Errorf("managers live %v", got)
	}
	if got := ca.Lifetime(modelv1.Role_ROLE_WORKER, spec); got != time.Hour {
		t.Errorf("workers live %v", got)
	}
	spec.ManagerCertExpiry = 1
	if got := ca.Lifetime(modelv1.Role_ROLE_MANAGER, spec); got != ca.MinLifetime {
		t.Errorf("managers set to a nanosecond live %v", got)
	}
}

// leaf makes a root and a leaf of it.
func leaf(t *testing.T, role modelv1.Role, at time.Time, life time.Duration) (*ca.Bundle, *x509.Certificate) {
	t.Helper()
	cluster := id.New()
	root, key, err := issue.NewRoot(cluster, at)
	if err != nil {
		t.Fatal(err)
	}
	is, err := issue.New([][]byte{root}, key)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(priv)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	p := ca.Profile{Cluster: cluster, Node: id.New(), Role: role, Generation: 3, Lifetime: life}
	record, err := is.Prepare(p, pub, at)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := is.Sign(cluster, p.Node, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return is.Roots(), cert
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Now()
	roots, cert := leaf(t, modelv1.Role_ROLE_MANAGER, now, time.Hour)
	others, _ := leaf(t, modelv1.Role_ROLE_MANAGER, now, time.Hour)
	chain := []*x509.Certificate{cert}
	who, err := roots.Verify(chain, now)
	if err != nil || who.Role != modelv1.Role_ROLE_MANAGER || who.Generation != 3 || who.KeySHA256 != ca.KeyDigest(cert) {
		t.Errorf("verified as %+v, %v", who, err)
	}
	if _, err := others.Verify(chain, now); err == nil || errors.Is(err, ca.ErrClock) {
		t.Errorf("under other roots: %v, want refused for that", err)
	}
	if _, err := roots.Verify(nil, now); err == nil {
		t.Error("no chain at all was verified")
	}
	for name, at := range map[string]time.Time{"early": now.Add(-time.Hour), "late": now.Add(2 * time.Hour)} {
		who, err := roots.Verify(chain, at)
		if !errors.Is(err, ca.ErrClock) || who.Node.IsZero() {
			t.Errorf("%s: %+v, %v; want the identity and ErrClock", name, who, err)
		}
		if err != nil && !strings.Contains(err.Error(), at.UTC().Format(time.RFC3339)) {
			t.Errorf("%s: %v does not name the time here", name, err)
		}
	}
	if root, ok := roots.Find(ca.RootDigest(roots.DER()[0])); !ok || !root.IsCA {
		t.Error("a bundle does not find its own root")
	}
	if _, err := ca.ParseBundle([][]byte{cert.Raw}); err == nil {
		t.Error("a leaf was taken for a root")
	}
	if _, err := ca.ParseBundle(nil); err == nil {
		t.Error("an empty bundle was made")
	}
}

func TestCredentialRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	roots, cert := leaf(t, modelv1.Role_ROLE_WORKER, time.Now(), time.Hour)
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.NewCredential([][]byte{cert.Raw}, key, roots, time.Now()); err == nil {
		t.Error("a certificate was put together with a key that is not its own")
	}
}
