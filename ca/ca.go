// Package ca says who is who in a cluster: what a node's certificate must hold,
// what a join token pins, which public keys may be certified and for how long.
//
// It is pure: it signs nothing (issue does), keeps nothing (keystore does) and
// speaks to nobody (authority and client do). Time is an argument.
//
// Invariant: nothing a node writes into a certificate request but its public key
// reaches a certificate, and what a certificate's holder may do is never read
// from the certificate but from the live record (D7).
package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Digest is the SHA-256 of a root's DER, or of a public key's DER
// SubjectPublicKeyInfo.
type Digest [sha256.Size]byte

// DigestFromBytes returns b as a Digest, or an error if it has another length.
func DigestFromBytes(b []byte) (Digest, error) {
	var d Digest
	if len(b) != len(d) {
		return d, fmt.Errorf("digest of %d bytes: want %d", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

// Fingerprint returns the digest as people compare it: hex in groups of four.
func (d Digest) Fingerprint() string {
	text := hex.EncodeToString(d[:])
	var b strings.Builder
	for i := 0; i < len(text); i += 4 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(text[i : i+4])
	}
	return b.String()
}

// KeyDigest returns the digest of cert's public key.
func KeyDigest(cert *x509.Certificate) Digest { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// RootDigest returns the digest of a root certificate's DER: what a join token
// pins.
func RootDigest(der []byte) Digest { return sha256.Sum256(der) }

// GenerationOID marks the extension that carries a certificate's generation
// (R14) as an ASN.1 INTEGER. The arc is a number of the private enterprises'
// space far above those given out; it is not registered.
var GenerationOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 1397441872, 1, 1}

// GenerationValue returns the DER value of the extension for generation.
func GenerationValue(generation uint64) ([]byte, error) {
	return asn1.Marshal(new(big.Int).SetUint64(generation))
}

// An Identity is what a certificate claims and its key proves. Only Node,
// Generation and KeySHA256 are ever used to look the live record up.
type Identity struct {
	Cluster id.ID
	Node    id.ID
	// Role is the one the certificate was issued for. Servers do not decide by
	// it; clients, which have no record, do (R15).
	Role modelv1.Role
	// Generation counts the certificates of this node from 1.
	Generation uint64
	KeySHA256  Digest
	NotBefore  time.Time
	NotAfter   time.Time
}

// FromCert reads the identity out of a leaf. It does not verify the signature.
func FromCert(cert *x509.Certificate) (Identity, error) {
	out := Identity{KeySHA256: KeyDigest(cert), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
	if cert.IsCA {
		return Identity{}, errors.New("certificate: it is an authority's, not a node's")
	}
	if len(cert.Subject.Organization) != 1 {
		return Identity{}, fmt.Errorf("certificate: %d organisations, want the cluster id", len(cert.Subject.Organization))
	}
	var err error
	if out.Cluster, err = id.Parse(cert.Subject.Organization[0]); err != nil {
		return Identity{}, fmt.Errorf("certificate: organisation: %w", err)
	}
	if out.Node, err = id.Parse(cert.Subject.CommonName); err != nil {
		return Identity{}, fmt.Errorf("certificate: common name: %w", err)
	}
	if out.Generation, err = generation(cert, NodeName(out.Cluster, out.Node)); err != nil {
		return Identity{}, fmt.Errorf("certificate: generation: %w", err)
	}
	if !slices.Contains(cert.DNSNames, NodeName(out.Cluster, out.Node)) {
		return Identity{}, fmt.Errorf("certificate: names %q do not hold the node's own", cert.DNSNames)
	}
	out.Role = modelv1.Role_ROLE_WORKER
	if slices.Contains(cert.DNSNames, ManagerName(out.Cluster)) {
		out.Role = modelv1.Role_ROLE_MANAGER
	}
	return out, nil
}

// generation reads it out of the extension or, where there is none, out of a name of
// the leaf: the cfssl API lets nobody ask an external CA for an extension. own is the
// name that is the holder's.
func generation(cert *x509.Certificate, own string) (uint64, error) {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(GenerationOID) {
			continue
		}
		n := new(big.Int)
		rest, err := asn1.Unmarshal(ext.Value, &n)
		switch {
		case err != nil:
			return 0, err
		case len(rest) != 0:
			return 0, fmt.Errorf("%d bytes after the number", len(rest))
		case !n.IsUint64() || n.Sign() == 0:
			return 0, fmt.Errorf("%v is out of range", n)
		}
		return n.Uint64(), nil
	}
	var out uint64
	for _, name := range cert.DNSNames {
		digits, is := strings.CutSuffix(name, "."+own)
		if digits, of := strings.CutPrefix(digits, generationPrefix); is && of {
			n, err := strconv.ParseUint(digits, 10, 64)
			if err != nil || n == 0 || name != GenerationName(n, own) || out != 0 {
				return 0, fmt.Errorf("name %q does not say it", name)
			}
			out = n
		}
	}
	if out == 0 {
		return 0, errors.New("neither the extension nor a name says it")
	}
	return out, nil
}

// generationPrefix begins the name that says a generation: "g7.<own name>".
const generationPrefix = "g"

// GenerationName is the name that says the generation of a leaf that an external CA
// signs. own is the name that is the holder's: NodeName or UserName.
func GenerationName(generation uint64, own string) string {
	return generationPrefix + strconv.FormatUint(generation, 10) + "." + own
}

// ManagerName is the name that only managers' leaves carry (R15).
func ManagerName(cluster id.ID) string { return "manager." + cluster.String() }

// NodeName is the name that the leaf of one node carries.
func NodeName(cluster, node id.ID) string { return node.String() + "." + cluster.String() }
