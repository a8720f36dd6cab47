package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// An authority is a key that signs, with its certificate.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// certify signs what tmpl says for key.
func (a authority) certify(t *testing.T, tmpl *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestEveryCertificateOfAChainMustBeForBothUsages: a node is a client and a server,
// and neither its leaf nor one between it and the root may say less.
func TestEveryCertificateOfAChainMustBeForBothUsages(t *testing.T) {
	t.Parallel()
	now := time.Now()
	_, good := leaf(t, modelv1.Role_ROLE_WORKER, now, ca.WorkerLifetime)
	signer := func(name string, usages ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-24 * time.Hour), NotAfter: good.NotAfter,
			IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: usages,
		}
	}
	root := authority{mustKey(t), signer("root")}
	root.cert = root.certify(t, root.cert, root.key)
	bundle, err := ca.ParseBundle([][]byte{root.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	between := func(usages ...x509.ExtKeyUsage) authority {
		key := mustKey(t)
		return authority{key, root.certify(t, signer("between", usages...), key)}
	}
	node := func(by authority, usages ...x509.ExtKeyUsage) []*x509.Certificate {
		tmpl := *good
		tmpl.ExtKeyUsage = usages
		tmpl.ExtraExtensions = slices.DeleteFunc(slices.Clone(good.Extensions), func(e pkix.Extension) bool { return !e.Id.Equal(ca.GenerationOID) })
		return []*x509.Certificate{by.certify(t, &tmpl, mustKey(t)), by.cert}
	}
	client, server, whatever := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageAny
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		ok    bool
	}{
		"both":                        {node(root, client, server), true},
		"client only":                 {node(root, client), false},
		"server only":                 {node(root, server), false},
		"something else":              {node(root, x509.ExtKeyUsageCodeSigning), false},
		"any":                         {node(root, whatever), true},
		"one between that names none": {node(between(), client, server), true},
		"one between for clients":     {node(between(client), client, server), false},
	} {
		if _, err := bundle.Verify(tt.chain, now); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want accepted %v", name, err, tt.ok)
		}
	}
}
