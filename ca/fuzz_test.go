package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/id"
)

// FuzzFromCert reads what a peer shows: only what is named as the rules say is
// somebody, and nobody is a node and a user at once.
func FuzzFromCert(f *testing.F) {
	cluster, node := id.New(), id.New()
	for _, names := range [][]string{{NodeName(cluster, node)}, {ManagerName(cluster), NodeName(cluster, node)}, {UserName(cluster, node)}} {
		f.Add(cluster.String(), node.String(), names[0], names[len(names)-1], []byte{2, 1, 1})
	}
	f.Add("", "", "", "", []byte{2, 2, 0})
	f.Fuzz(func(t *testing.T, organisation, name, first, second string, generation []byte) {
		cert := &x509.Certificate{DNSNames: []string{first, second}}
		cert.Subject.CommonName, cert.Subject.Organization = name, []string{organisation}
		cert.Extensions = append(cert.Extensions, extension(generation))
		who, err := FromCert(cert)
		if err == nil && (who.Generation == 0 || !slices.Contains(cert.DNSNames, NodeName(who.Cluster, who.Node))) {
			t.Errorf("%q of %q named %q is %+v", name, organisation, cert.DNSNames, who)
		}
		cert.DNSNames = cert.DNSNames[:1]
		_, asUser := UserFromCert(cert)
		if _, err := FromCert(cert); err == nil && asUser == nil {
			t.Errorf("%q is a node and a user", cert.DNSNames)
		}
	})
}

// FuzzVerify shows noise as a root and as a chain: nothing of it is anybody's.
func FuzzVerify(f *testing.F) {
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		b, err := ParseBundle([][]byte{der})
		if err != nil {
			return
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Verify([]*x509.Certificate{cert}, time.Now()); err == nil {
			t.Error("a root is a node")
		}
		if _, err := b.VerifyUser([]*x509.Certificate{cert}, time.Now()); err == nil {
			t.Error("a root is a user")
		}
		if again, err := ParseBundle(b.DER()); err != nil || again.Digest() != b.Digest() {
			t.Errorf("read again it is another: %v", err)
		}
	})
}

func extension(value []byte) pkix.Extension { return pkix.Extension{Id: GenerationOID, Value: value} }
