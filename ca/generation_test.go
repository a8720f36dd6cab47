package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
)

// leafOf is a leaf with a subject and names, signed by its own key.
func leafOf(t *testing.T, name string, cluster id.ID, hosts ...string) *x509.Certificate {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{cluster.String()}}, DNSNames: hosts, NotAfter: time.Now()}
	return signedBy(t, template, key)
}

func signedBy(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestAGenerationIsReadFromAName: an external CA cannot be asked for an extension.
func TestAGenerationIsReadFromAName(t *testing.T) {
	t.Parallel()
	cluster, node, user := id.New(), id.New(), id.New()
	own, his := ca.NodeName(cluster, node), ca.UserName(cluster, user)
	who, err := ca.FromCert(leafOf(t, node.String(), cluster, own, ca.GenerationName(12, own)))
	if err != nil || who.Generation != 12 || who.Node != node {
		t.Errorf("a node's is %+v, %v", who, err)
	}
	person, err := ca.UserFromCert(leafOf(t, "alice", cluster, ca.GenerationName(3, his), his))
	if err != nil || person.Generation != 3 || person.User != user {
		t.Errorf("a user's is %+v, %v", person, err)
	}
	for name, hosts := range map[string][]string{
		"none":           {own},
		"0":              {own, "g0." + own},
		"another's":      {own, ca.GenerationName(1, ca.NodeName(cluster, id.New()))},
		"two":            {own, ca.GenerationName(1, own), ca.GenerationName(2, own)},
		"the same twice": {own, ca.GenerationName(1, own), ca.GenerationName(1, own)},
		"padded":         {own, "g01." + own},
		"signed":         {own, "g+1." + own},
		"huge":           {own, "g" + strings.Repeat("9", 21) + "." + own},
		"no number":      {own, "gx." + own},
	} {
		if who, err := ca.FromCert(leafOf(t, node.String(), cluster, hosts...)); err == nil {
			t.Errorf("%s was read as %d", name, who.Generation)
		}
	}
	for name, hosts := range map[string][]string{
		"of another user":      {his, ca.GenerationName(1, ca.UserName(cluster, id.New()))},
		"a node's too":         {his, ca.GenerationName(1, his), own},
		"a node's in place":    {his, own},
		"two users'":           {his, ca.UserName(cluster, id.New())},
		"of a manager besides": {his, ca.ManagerName(cluster), ca.GenerationName(1, his)},
	} {
		if _, err := ca.UserFromCert(leafOf(t, "alice", cluster, hosts...)); err == nil {
			t.Errorf("a user's that is %s was taken", name)
		}
	}
}

func TestAnExternalCAIsReachedByHTTPSAlone(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"https://ca.example", "https://ca.example:8888", "https://10.0.0.1:8888", "https://[2001:db8::1]:8888"} {
		if err := ca.CheckExternal(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "ca.example:8888", "http://ca.example", "https://", "https://me:hidden@ca.example", "https://ca.example/x", "https://ca.example?x", "https://CA.example", "https://ca\x1b"} {
		if err := ca.CheckExternal(bad); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
