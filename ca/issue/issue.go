// Package issue signs: roots that sign themselves, and the leaves of nodes and
// users.
//
// It is the only importer of cfssl. What a leaf says comes from a profile of ca and
// the committed record, and only the public key from the request. Prepare draws
// what cannot be drawn twice (serial and times); Sign makes of one record, any
// number of times and on any manager, the same certificate but for the bytes of
// the signature (R17).
//
// Invariant: nothing is signed that was not recorded, and a signed leaf is read
// back and compared with its record before it leaves.
package issue

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	"github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	serialBytes = 16
	// rootBackdate is more than any leaf's, so that a root is never younger than
	// what it signed.
	rootBackdate = 24 * time.Hour
	// MaxFormer is how many roots one after the other lead to the present one.
	MaxFormer = 3
	// userProfile is what cfssl calls the profile of users' leaves.
	userProfile = "user"
)

// cfssl speaks through a logger of its own; what matters comes back as an error.
func init() { log.Level = log.LevelFatal + 1 }

// NewRoot makes the root of a new cluster: a certificate that signs itself and
// its private key in PKCS#8.
func NewRoot(cluster id.ID, now time.Time) (der []byte, key sealed.Secret, err error) {
	return newRoot(cluster, "skep root "+cluster.Short(), now)
}

// NextRoot makes a root that is to follow another of the same cluster. Its name
// tells it from the others'.
func NextRoot(cluster id.ID, now time.Time) (der []byte, key sealed.Secret, err error) {
	return newRoot(cluster, "skep root "+cluster.Short()+" "+now.UTC().Format("20060102T150405"), now)
}

func newRoot(cluster id.ID, name string, now time.Time) (der []byte, key sealed.Secret, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("make root key: %w", err)
	}
	request, err := request(priv)
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("make root: %w", err)
	}
	s, err := local.NewSigner(priv, nil, x509.ECDSAWithSHA256, &config.Signing{Default: rootProfile()})
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("make root: %w", err)
	}
	signed, err := s.Sign(signer.SignRequest{
		Request: request,
		Subject: &signer.Subject{CN: name, Names: []csr.Name{{O: cluster.String()}}},
		Hosts:   []string{},
		// Seconds are all a certificate holds.
		NotBefore: now.Add(-rootBackdate).Truncate(time.Second),
		NotAfter:  now.Add(ca.RootLifetime).Truncate(time.Second),
	})
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("sign root: %w", err)
	}
	der, err = fromPEM(signed)
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("sign root: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, sealed.Secret{}, fmt.Errorf("make root key: %w", err)
	}
	return der, sealed.NewSecret(pkcs8), nil
}

func request(priv crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, priv)
	if err != nil {
		return "", err
	}
	return toPEM(der), nil
}

// whitelist lets nothing of a request through but the public key.
func whitelist() *config.CSRWhitelist {
	return &config.CSRWhitelist{PublicKey: true, PublicKeyAlgorithm: true, SignatureAlgorithm: false}
}

func rootProfile() *config.SigningProfile {
	return &config.SigningProfile{
		Usage:  []string{"cert sign", "crl sign"},
		Expiry: ca.RootLifetime,
		// Steps below: a rotation signs the next root with this one, and who holds a
		// join token from before follows through as many rotations as this.
		CAConstraint: config.CAConstraint{IsCA: true, MaxPathLen: MaxFormer},
		CSRWhitelist: whitelist(),
	}
}

func leafProfile(usage ...string) *config.SigningProfile {
	return &config.SigningProfile{
		Usage:                       append([]string{"digital signature"}, usage...),
		Expiry:                      ca.WorkerLifetime, // every request brings its own times
		ClientProvidesSerialNumbers: true,
		CSRWhitelist:                whitelist(),
		ExtensionWhitelist:          map[string]bool{ca.GenerationOID.String(): true},
	}
}

// An Issuer signs with one root, or says what one is asked for whose key is elsewhere
// (Outside).
type Issuer struct {
	root   *x509.Certificate
	bundle *ca.Bundle
	signer *local.Signer // nil: the key is elsewhere
	// via follows each leaf that is signed.
	via [][]byte
	// floor is when all that signs, and leads to it, is valid: a leaf is judged at
	// its own beginning.
	floor time.Time
}

// New returns the issuer of a cluster's root: certificates as in
// modelv1.RootCA, the first of which signs, and its key in PKCS#8.
func New(certificates [][]byte, key sealed.Secret) (*Issuer, error) {
	is, err := Outside(certificates)
	if err != nil {
		return nil, err
	}
	root := is.root
	parsed, err := x509.ParsePKCS8PrivateKey(key.Reveal())
	if err != nil {
		// The cause may quote bytes of the key.
		return nil, fmt.Errorf("issuer: the key of %s is not readable", root.Subject.CommonName)
	}
	priv, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !priv.PublicKey.Equal(root.PublicKey) {
		return nil, fmt.Errorf("issuer: the key is not that of %s", root.Subject.CommonName)
	}
	is.signer, err = local.NewSigner(priv, root, x509.ECDSAWithSHA256, &config.Signing{
		Default: leafProfile("server auth", "client auth"),
		// A user is never a server.
		Profiles: map[string]*config.SigningProfile{userProfile: leafProfile("client auth")},
	})
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return is, nil
}

// Via returns an issuer that gives the certificates, DER, with every leaf, as in
// modelv1.RootCA.
func (is *Issuer) Via(certificates [][]byte) (*Issuer, error) {
	out := *is
	out.via = certificates
	for _, der := range certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("issuer: what leads to former roots: %w", err)
		}
		if c.NotBefore.After(out.floor) {
			out.floor = c.NotBefore
		}
	}
	return &out, nil
}

// chain is a leaf and what goes with it.
func (is *Issuer) chain(leaf []byte) [][]byte { return append([][]byte{leaf}, is.via...) }

// Root returns the digest of the root that signs.
func (is *Issuer) Root() ca.Digest { return ca.RootDigest(is.root.Raw) }

// Roots returns what nodes should trust.
func (is *Issuer) Roots() *ca.Bundle { return is.bundle }

// Prepare returns the record of a leaf that may be signed once the record is
// committed. now is the leader's clock.
func (is *Issuer) Prepare(p ca.Profile, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("prepare certificate: %w", err)
	}
	record, err := is.record(p.Generation, p.Lifetime, key, now)
	if err != nil {
		return nil, err
	}
	record.Role = p.Role
	return record, nil
}

// record draws what a leaf will say besides its names.
func (is *Issuer) record(generation uint64, life time.Duration, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error) {
	notAfter := now.Add(life).Truncate(time.Second)
	if notAfter.After(is.root.NotAfter) {
		notAfter = is.root.NotAfter
	}
	notBefore := now.Add(-ca.Backdate(life)).Truncate(time.Second)
	if notBefore.Before(is.floor) {
		notBefore = is.floor // a root that an operator gave may be minutes old
	}
	if notBefore.After(now) || !notAfter.After(now) {
		return nil, fmt.Errorf("prepare certificate: %s is valid from %s to %s, it cannot sign at %s",
			is.root.Subject.CommonName, is.root.NotBefore, is.root.NotAfter, now.UTC())
	}
	issuer := ca.RootDigest(is.root.Raw)
	return &modelv1.Certificate{
		Generation: generation,
		KeySha256:  key.SHA256[:],
		PublicKey:  key.DER,
		Serial:     newSerial(),
		NotBefore:  notBefore.UnixNano(),
		NotAfter:   notAfter.UnixNano(),
		IssuedAt:   now.UnixNano(),
		Issuer:     issuer[:],
	}, nil
}

// Sign returns the chain (DER, leaf first, then what leads to former roots) of the
// recorded certificate of a node. request is any certificate request, in DER, of the recorded key.
func (is *Issuer) Sign(cluster, node id.ID, record *modelv1.Certificate, request []byte) ([][]byte, error) {
	p := ca.Profile{Cluster: cluster, Node: node, Role: record.GetRole(), Generation: record.GetGeneration(), Lifetime: lifeOf(record)}
	der, err := is.leaf(record, request, leaf{cluster: cluster, name: node.String(), hosts: p.Names()})
	if err == nil {
		err = is.lint(der, p, record)
	}
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %s: %w", node, err)
	}
	return is.chain(der), nil
}

func lifeOf(record *modelv1.Certificate) time.Duration {
	return time.Duration(record.GetNotAfter() - record.GetIssuedAt())
}

// A leaf is what a certificate says besides its record.
type leaf struct {
	cluster id.ID
	name    string
	hosts   []string
	profile string // cfssl's; empty is that of nodes
}

// leaf signs what record and l say for the key of request.
func (is *Issuer) leaf(record *modelv1.Certificate, request []byte, l leaf) ([]byte, error) {
	key, err := ca.KeyOfCSR(request) // the signer looks whether the key is its maker's
	if err != nil {
		return nil, err
	}
	if err := is.isFor(record, key); err != nil {
		return nil, err
	}
	if is.IsOutside() {
		return nil, fmt.Errorf("the key of %s is not held here: an external CA signs", is.root.Subject)
	}
	value, err := ca.GenerationValue(record.GetGeneration())
	if err != nil {
		return nil, fmt.Errorf("generation: %w", err)
	}
	signed, err := is.signer.Sign(signer.SignRequest{
		Request:    toPEM(request),
		Subject:    &signer.Subject{CN: l.name, Names: []csr.Name{{O: l.cluster.String()}}},
		Hosts:      l.hosts,
		Profile:    l.profile,
		Serial:     new(big.Int).SetBytes(record.GetSerial()),
		NotBefore:  time.Unix(0, record.GetNotBefore()),
		NotAfter:   time.Unix(0, record.GetNotAfter()),
		Extensions: []signer.Extension{{ID: config.OID(ca.GenerationOID), Value: hex.EncodeToString(value)}},
	})
	if err != nil {
		return nil, err
	}
	return fromPEM(signed)
}

// lint reads a leaf back and compares it with what was meant.
func (is *Issuer) lint(der []byte, p ca.Profile, record *modelv1.Certificate) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	who, err := is.bundle.Verify([]*x509.Certificate{leaf}, time.Unix(0, record.GetIssuedAt()))
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	want := ca.Identity{Cluster: p.Cluster, Node: p.Node, Role: p.Role, Generation: p.Generation,
		KeySHA256: ca.Digest(record.GetKeySha256()),
		NotBefore: time.Unix(0, record.GetNotBefore()).UTC(), NotAfter: time.Unix(0, record.GetNotAfter()).UTC()}
	if who != want {
		return fmt.Errorf("read back: the leaf says %+v, want %+v", who, want)
	}
	return saysNoMore(leaf, p.Cluster, p.Node.String(), p.Names())
}

// saysNoMore returns an error if a leaf has a subject or names that nobody meant.
func saysNoMore(leaf *x509.Certificate, cluster id.ID, name string, hosts []string) error {
	if subject := (pkix.Name{CommonName: name, Organization: []string{cluster.String()}}); leaf.Subject.String() != subject.String() {
		return fmt.Errorf("read back: subject %q, want %q", leaf.Subject, subject)
	}
	if len(leaf.DNSNames) != len(hosts) || len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) != 0 {
		return errors.New("read back: it holds names nobody meant")
	}
	return nil
}

func toPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func fromPEM(text []byte) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(rest) != 0 {
		return nil, fmt.Errorf("the signer's answer is not one certificate")
	}
	return block.Bytes, nil
}
