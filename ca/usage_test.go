package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestEveryCertificateOfAChainMustBeForBothUsages: a node is a client and a server,
// and neither its leaf nor one between it and the root may say less.
func TestEveryCertificateOfAChainMustBeForBothUsages(t *testing.T) {
	t.Parallel()
	now, cluster := time.Now(), id.New()
	rootDER, secret, err := issue.NewRoot(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(rootDER)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ca.ParseBundle([][]byte{rootDER})
	if err != nil {
		t.Fatal(err)
	}
	is, err := issue.New([][]byte{rootDER}, secret)
	if err != nil {
		t.Fatal(err)
	}
	nodeKey, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(nodeKey)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	p := ca.Profile{Cluster: cluster, Node: id.New(), Role: modelv1.Role_ROLE_WORKER, Generation: 1, Lifetime: ca.WorkerLifetime}
	record, err := is.Prepare(p, pub, now)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := is.Sign(cluster, p.Node, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	good, err := x509.ParseCertificate(signed[0])
	if err != nil {
		t.Fatal(err)
	}

	sign := func(tmpl, parent *x509.Certificate, key any, signer any) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	leaf := func(parent *x509.Certificate, signer any, usages ...x509.ExtKeyUsage) *x509.Certificate {
		tmpl := *good
		tmpl.ExtKeyUsage = usages
		tmpl.ExtraExtensions = slices.DeleteFunc(slices.Clone(good.Extensions), func(e pkix.Extension) bool { return !e.Id.Equal(ca.GenerationOID) })
		return sign(&tmpl, parent, &nodeKey.PublicKey, signer)
	}
	middleKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	middle := func(usages ...x509.ExtKeyUsage) *x509.Certificate {
		return sign(&x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "between"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: usages,
		}, root, &middleKey.PublicKey, parsed)
	}
	client, server, whatever := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageAny
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		ok    bool
	}{
		{"both", []*x509.Certificate{leaf(root, parsed, client, server)}, true},
		{"client only", []*x509.Certificate{leaf(root, parsed, client)}, false},
		{"server only", []*x509.Certificate{leaf(root, parsed, server)}, false},
		{"something else", []*x509.Certificate{leaf(root, parsed, x509.ExtKeyUsageCodeSigning)}, false},
		{"any", []*x509.Certificate{leaf(root, parsed, whatever)}, true},
		{"one between that names none", []*x509.Certificate{leaf(middle(), middleKey, client, server), middle()}, true},
		{"one between for clients", []*x509.Certificate{leaf(middle(client), middleKey, client, server), middle(client)}, false},
	} {
		if _, err := bundle.Verify(tt.chain, now); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want accepted %v", tt.name, err, tt.ok)
		}
	}
}
