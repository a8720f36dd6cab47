package ca

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/id"
)

const (
	// UserLifetime is how long a user's leaf lives unless its record says
	// otherwise: a working day.
	UserLifetime = 8 * time.Hour
	// MaxUserLifetime is the longest life a user's leaf may be given.
	MaxUserLifetime = 366 * 24 * time.Hour
	// maxUserName is what a common name has room for.
	maxUserName = 63
	// userPrefix begins the name that only users' leaves carry. No node's begins
	// so: a node's begins with the digits of its id.
	userPrefix = "user."
)

// A UserIdentity is what the certificate of a user claims and its key proves.
// Only User, Generation and KeySHA256 are ever used to look the live record up;
// the name is for messages.
type UserIdentity struct {
	Cluster id.ID
	User    id.ID
	Name    string
	// Generation counts the certificates of this user from 1.
	Generation uint64
	KeySHA256  Digest
	NotBefore  time.Time
	NotAfter   time.Time
}

// IsZero reports whether u is nobody's.
func (u UserIdentity) IsZero() bool { return u.User.IsZero() }

// UserName is the name that the leaf of one user carries.
func UserName(cluster, user id.ID) string {
	return userPrefix + user.String() + "." + cluster.String()
}

// CheckUserName says what is wrong with what somebody is to be called: 1 to 63
// letters, digits, dots, dashes and underscores, the first no dot or dash.
func CheckUserName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	if name == "" || len(name) > maxUserName || strings.Trim(name, first+".-") != "" || !strings.Contains(first, name[:1]) {
		return fmt.Errorf("user name %q: want 1 to %d letters, digits, dots, dashes and underscores, beginning with none of . and -",
			name[:min(len(name), 2*maxUserName)], maxUserName)
	}
	return nil
}

// IsUser reports whether cert claims to be a user's and not a node's. It proves
// nothing.
func IsUser(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.DNSNames, func(n string) bool { return strings.HasPrefix(n, userPrefix) })
}

// UserFromCert reads the identity out of a user's leaf. It does not verify the
// signature. A leaf that could be taken for a node's is refused.
func UserFromCert(cert *x509.Certificate) (UserIdentity, error) {
	out := UserIdentity{Name: cert.Subject.CommonName, KeySHA256: KeyDigest(cert), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
	names := userNames(cert)
	if cert.IsCA || len(cert.Subject.Organization) != 1 || len(names) != 1 || len(cert.DNSNames) > 2 {
		return UserIdentity{}, errors.New("certificate: it is not a user's")
	}
	if err := CheckUserName(out.Name); err != nil {
		return UserIdentity{}, fmt.Errorf("certificate: %w", err)
	}
	var err error
	if out.Cluster, err = id.Parse(cert.Subject.Organization[0]); err != nil {
		return UserIdentity{}, fmt.Errorf("certificate: organisation: %w", err)
	}
	digits, ok := strings.CutSuffix(names[0], "."+out.Cluster.String())
	digits, was := strings.CutPrefix(digits, userPrefix)
	if !ok || !was {
		return UserIdentity{}, fmt.Errorf("certificate: name %q is not a user's of cluster %s", names[0], out.Cluster)
	}
	if out.User, err = id.Parse(digits); err != nil {
		return UserIdentity{}, fmt.Errorf("certificate: user: %w", err)
	}
	if out.Generation, err = generation(cert, names[0]); err != nil {
		return UserIdentity{}, fmt.Errorf("certificate: generation: %w", err)
	}
	if len(cert.DNSNames) == 2 && !slices.Contains(cert.DNSNames, GenerationName(out.Generation, names[0])) {
		return UserIdentity{}, errors.New("certificate: it is not a user's alone")
	}
	return out, nil
}

// userNames are the names of a leaf that are users' own.
func userNames(cert *x509.Certificate) []string {
	return slices.DeleteFunc(slices.Clone(cert.DNSNames), func(n string) bool { return !strings.HasPrefix(n, userPrefix) })
}

// VerifyUser is Verify for the certificate of a user, which proves a client and
// never a server.
func (b *Bundle) VerifyUser(chain []*x509.Certificate, now time.Time) (UserIdentity, error) {
	if len(chain) == 0 {
		return UserIdentity{}, errors.New("verify certificate: none was shown")
	}
	leaf := chain[0]
	who, err := UserFromCert(leaf)
	if err != nil {
		return UserIdentity{}, fmt.Errorf("verify: %w", err)
	}
	if slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return UserIdentity{}, fmt.Errorf("verify certificate of user %s: it would prove a server", who.Name)
	}
	if err := b.signed(leaf, chain[1:], x509.ExtKeyUsageClientAuth); err != nil {
		return UserIdentity{}, fmt.Errorf("verify certificate of user %s: %w", who.Name, err)
	}
	return who, InTime(leaf, now)
}

// A UserProfile is all that a user's leaf says, but for its key, serial and times.
type UserProfile struct {
	Cluster    id.ID
	User       id.ID
	Name       string
	Generation uint64
	// Lifetime is from issue to expiry.
	Lifetime time.Duration
}

// Check returns an error if no certificate may be made of the profile.
func (p UserProfile) Check() error {
	switch {
	case p.Cluster.IsZero() || p.User.IsZero():
		return fmt.Errorf("certificate profile: cluster %s, user %s: both are needed", p.Cluster, p.User)
	case p.Generation == 0:
		return errors.New("certificate profile: generation 0")
	case p.Lifetime < MinLifetime || p.Lifetime > MaxUserLifetime:
		return fmt.Errorf("certificate profile: lifetime %v is not between %v and %v", p.Lifetime, MinLifetime, MaxUserLifetime)
	}
	return CheckUserName(p.Name)
}

// A UserCredential is what a user proves himself with and whom he trusts. It is
// never changed.
type UserCredential struct {
	Identity UserIdentity
	// Chain is DER, leaf first, without roots.
	Chain [][]byte
	Roots *Bundle

	tls tls.Certificate
}

// NewUserCredential checks that chain is signed by one of the roots, whatever the
// time, and that key is the leaf's, and puts them together.
func NewUserCredential(chain [][]byte, key crypto.Signer, roots *Bundle) (*UserCredential, error) {
	if key == nil || roots == nil || len(chain) == 0 {
		return nil, errors.New("credential: key, certificate or roots are missing")
	}
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	who, err := roots.VerifyUser(certs, certs[0].NotBefore)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("credential: key: %w", err)
	}
	if !bytes.Equal(spki, certs[0].RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("credential of user %s: the certificate is for another key", who.Name)
	}
	return &UserCredential{Identity: who, Chain: chain, Roots: roots,
		tls: tls.Certificate{Certificate: slices.Clone(chain), PrivateKey: key, Leaf: certs[0]}}, nil
}

// SignedBy reports whether the certificate is signed by the root that has the
// digest, one that c trusts.
func (c *UserCredential) SignedBy(root Digest) bool {
	r, found := c.Roots.Find(root)
	return found && c.tls.Leaf.CheckSignatureFrom(r) == nil
}

// TLS returns what the user shows in a handshake.
func (c *UserCredential) TLS() *tls.Certificate { return &c.tls }
