package ca_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// userLeaf makes a root, and the leaf of a user with the key it is for.
func userLeaf(t testing.TB, p ca.UserProfile, at time.Time) (*ca.UserCredential, *x509.Certificate) {
	t.Helper()
	root, rootKey, err := issue.NewRoot(p.Cluster, at)
	if err != nil {
		t.Fatal(err)
	}
	is, err := issue.New([][]byte{root}, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	record, err := is.PrepareUser(p, pub, at)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := is.SignUser(p, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := ca.NewUserCredential(chain, key, is.Roots())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return cred, cert
}

func alice() ca.UserProfile {
	return ca.UserProfile{Cluster: id.New(), User: id.New(), Name: "alice", Generation: 3, Lifetime: ca.UserLifetime}
}

func TestAUsersLeafSaysWhoAndProvesAClientOnly(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := alice()
	cred, cert := userLeaf(t, p, now)
	if who := cred.Identity; who.Cluster != p.Cluster || who.User != p.User || who.Name != "alice" || who.Generation != 3 {
		t.Errorf("it says %+v", who)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || cert.KeyUsage != x509.KeyUsageDigitalSignature || cert.IsCA {
		t.Errorf("it may be used for %v, %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if !slices.Equal(cert.DNSNames, []string{"user." + p.User.String() + "." + p.Cluster.String()}) {
		t.Errorf("its names are %q", cert.DNSNames)
	}
	if _, err := cred.Roots.VerifyUser([]*x509.Certificate{cert}, now); err != nil {
		t.Error(err)
	}
	if _, err := cred.Roots.VerifyUser([]*x509.Certificate{cert}, now.Add(ca.UserLifetime+time.Second)); !errors.Is(err, ca.ErrClock) {
		t.Errorf("after its end: %v", err)
	}
	foreign, _ := userLeaf(t, alice(), now)
	if _, err := foreign.Roots.VerifyUser([]*x509.Certificate{cert}, now); err == nil {
		t.Error("another swarm's root vouches for it")
	}
	if _, err := ca.NewUserCredential(cred.Chain, mustKey(t), cred.Roots); err == nil {
		t.Error("another key was taken for it")
	}
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {

	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestUsersAndNodesAreNotTakenForEachOther(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := alice()
	p.Name = id.New().String() // a name that could be a node's
	cred, cert := userLeaf(t, p, now)
	if !ca.IsUser(cert) {
		t.Error("a user's leaf does not say so")
	}
	if who, err := ca.FromCert(cert); err == nil {
		t.Errorf("a user's leaf reads as node %s", who.Node)
	}
	if _, err := cred.Roots.Verify([]*x509.Certificate{cert}, now); err == nil {
		t.Error("a user's leaf verifies as a node's")
	}
	for _, role := range []modelv1.Role{modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_MANAGER} {
		bundle, node := leaf(t, role, now, time.Hour)
		if _, err := ca.UserFromCert(node); err == nil || ca.IsUser(node) {
			t.Errorf("the leaf of a %v reads as a user's", role)
		}
		if _, err := bundle.VerifyUser([]*x509.Certificate{node}, now); err == nil {
			t.Errorf("the leaf of a %v verifies as a user's", role)
		}
	}
	// What could prove a server is no user's, whatever else it says.
	server := *cert
	server.ExtKeyUsage = append(slices.Clone(cert.ExtKeyUsage), x509.ExtKeyUsageServerAuth)
	if _, err := cred.Roots.VerifyUser([]*x509.Certificate{&server}, now); err == nil {
		t.Error("a user's leaf that proves a server is taken")
	}
}

func TestProfilesOfUsersAreChecked(t *testing.T) {
	t.Parallel()
	if err := alice().Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*ca.UserProfile){
		"no cluster":    func(p *ca.UserProfile) { p.Cluster = id.ID{} },
		"no id":         func(p *ca.UserProfile) { p.User = id.ID{} },
		"no generation": func(p *ca.UserProfile) { p.Generation = 0 },
		"no life":       func(p *ca.UserProfile) { p.Lifetime = 0 },
		"a long life":   func(p *ca.UserProfile) { p.Lifetime = 2 * ca.MaxUserLifetime },
		"no name":       func(p *ca.UserProfile) { p.Name = "" },
		"a colon":       func(p *ca.UserProfile) { p.Name = "uid:0" },
		"an at":         func(p *ca.UserProfile) { p.Name = "a@b" },
		"a dash first":  func(p *ca.UserProfile) { p.Name = "-a" },
		"a long name":   func(p *ca.UserProfile) { p.Name = strings.Repeat("a", 64) },
	} {
		p := alice()
		spoil(&p)
		if p.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzUserFromCert: whatever a leaf says, it is read as one user or refused, and
// never as a user and a node.
func FuzzUserFromCert(f *testing.F) {
	p := alice()
	_, cert := userLeaf(f, p, time.Now())
	f.Add("alice", p.Cluster.String(), cert.DNSNames[0], []byte{2, 1, 3})
	f.Add(p.User.String(), p.Cluster.String(), p.User.String()+"."+p.Cluster.String(), []byte{2, 1, 3})
	f.Add("", "", "user..", []byte{})
	f.Add("alice", p.Cluster.String(), "user."+p.Cluster.String(), []byte{2, 9})
	f.Fuzz(func(t *testing.T, name, cluster, host string, generation []byte) {
		leaf := &x509.Certificate{
			Subject: pkix.Name{CommonName: name, Organization: []string{cluster}}, DNSNames: []string{host},
			Extensions: []pkix.Extension{{Id: ca.GenerationOID, Value: generation}},
		}
		who, err := ca.UserFromCert(leaf)
		_, nodeErr := ca.FromCert(leaf)
		switch {
		case err != nil:
		case nodeErr == nil:
			t.Errorf("%q %q is a user's and a node's", name, host)
		case !ca.IsUser(leaf) || ca.UserName(who.Cluster, who.User) != host || who.Name != name || who.Generation == 0:
			t.Errorf("%q %q reads as %+v", name, host, who)
		}
	})
}
