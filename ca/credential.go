package ca

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Credential is what a node proves itself with and whom it trusts. It is
// never changed; a renewal makes another.
type Credential struct {
	Identity Identity
	Leaf     *x509.Certificate
	// Chain is DER, leaf first, without roots.
	Chain [][]byte
	Roots *Bundle
	// IssuedAt is when the leaf was signed (R21).
	IssuedAt time.Time

	key crypto.Signer
	tls tls.Certificate
}

// NewCredential checks that chain is signed by one of the roots, whatever the
// time, and that key is the leaf's, and puts them together.
func NewCredential(chain [][]byte, key crypto.Signer, roots *Bundle, issuedAt time.Time) (*Credential, error) {
	if key == nil || roots == nil {
		return nil, errors.New("credential: key or roots are missing")
	}
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	who, err := roots.Verify(certs, issuedAt)
	if err != nil && !errors.Is(err, ErrClock) {
		return nil, fmt.Errorf("credential: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("credential: key: %w", err)
	}
	if !bytes.Equal(spki, certs[0].RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("credential of node %s: the certificate is for another key", who.Node)
	}
	c := &Credential{Identity: who, Leaf: certs[0], Chain: chain, Roots: roots, IssuedAt: issuedAt, key: key}
	c.tls = tls.Certificate{Certificate: append([][]byte(nil), chain...), PrivateKey: key, Leaf: certs[0]}
	if who.Role == modelv1.Role_ROLE_MANAGER {
		// Joiners know the root by its digest only, so managers send it (R16).
		for _, der := range roots.DER() {
			if !slices.ContainsFunc(chain, func(c []byte) bool { return bytes.Equal(c, der) }) {
				c.tls.Certificate = append(c.tls.Certificate, der)
			}
		}
	}
	return c, nil
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, 0, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("credential: certificate %d: %w", i+1, err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// With returns c with other roots to trust, or an error if none of them vouches for
// its certificate.
func (c *Credential) With(roots *Bundle) (*Credential, error) {
	return NewCredential(c.Chain, c.key, roots, c.IssuedAt)
}

// SignedBy reports whether the leaf is signed by the root that has the digest, one
// that c trusts.
func (c *Credential) SignedBy(root Digest) bool {
	r, found := c.Roots.Find(root)
	return found && c.Leaf.CheckSignatureFrom(r) == nil
}

// TLS returns what the node shows in a handshake.
func (c *Credential) TLS() *tls.Certificate { return &c.tls }

// A Holder gives out the node's credential of the moment. The zero Holder holds
// none. It is safe for concurrent use.
type Holder struct{ now atomic.Pointer[Credential] }

// Get returns the credential, or nil if there is none.
func (h *Holder) Get() *Credential { return h.now.Load() }

// Set makes c the credential that handshakes use from now on. nil is none.
func (h *Holder) Set(c *Credential) { h.now.Store(c) }
