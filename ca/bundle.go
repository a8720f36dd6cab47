package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxRoots bounds a bundle: one root, and two or more while a rotation lasts.
const MaxRoots = 8

// A Bundle is the roots a node trusts, never empty, and never changed.
type Bundle struct {
	roots []*x509.Certificate
	pool  *x509.CertPool
}

// ParseBundle returns the bundle of the given DER certificates.
func ParseBundle(ders [][]byte) (*Bundle, error) {
	if len(ders) == 0 || len(ders) > MaxRoots {
		return nil, fmt.Errorf("root certificates: %d given, want 1 to %d", len(ders), MaxRoots)
	}
	b := &Bundle{pool: x509.NewCertPool()}
	for i, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root certificate %d: %w", i+1, err)
		}
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return nil, fmt.Errorf("root certificate %d (%s): not an authority's", i+1, cert.Subject)
		}
		b.roots = append(b.roots, cert)
		b.pool.AddCert(cert)
	}
	return b, nil
}

// DER returns the certificates of the bundle, the one that signs first.
func (b *Bundle) DER() [][]byte {
	out := make([][]byte, 0, len(b.roots))
	for _, r := range b.roots {
		out = append(out, bytes.Clone(r.Raw))
	}
	return out
}

// Digest returns the digest of what is trusted: the SHA-256 of the roots' digests,
// one behind the other, the smallest first. Which of them signs is not in it.
func (b *Bundle) Digest() Digest {
	all := make([][]byte, 0, len(b.roots))
	for _, r := range b.roots {
		d := RootDigest(r.Raw)
		all = append(all, d[:])
	}
	slices.SortFunc(all, bytes.Compare)
	return sha256.Sum256(bytes.Join(slices.CompactFunc(all, bytes.Equal), nil))
}

// Find returns the root that has the digest.
func (b *Bundle) Find(d Digest) (*x509.Certificate, bool) {
	for _, r := range b.roots {
		if RootDigest(r.Raw) == d {
			return r, true
		}
	}
	return nil, false
}

// ErrClock is wrapped by the errors of Verify that are about time. Clients add
// advice about clocks; managers apply R14's grace to expired members.
var ErrClock = errors.New("the time is outside the certificate's validity")

// Verify checks that the first certificate of chain is a node's, valid at now,
// and signed by a root of the bundle, and returns the identity it carries. For
// a certificate that is only out of its time it returns the identity as well,
// with an error that wraps ErrClock and names both times.
func (b *Bundle) Verify(chain []*x509.Certificate, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, errors.New("verify certificate: none was shown")
	}
	leaf := chain[0]
	who, err := FromCert(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("verify: %w", err)
	}
	if err := b.signed(leaf, chain[1:], x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth); err != nil {
		return Identity{}, fmt.Errorf("verify certificate of node %s: %w", who.Node, err)
	}
	return who, InTime(leaf, now)
}

// signed checks that a root of the bundle signed leaf, for each of the usages.
func (b *Bundle) signed(leaf *x509.Certificate, others []*x509.Certificate, usages ...x509.ExtKeyUsage) error {
	opts := x509.VerifyOptions{
		Roots:         b.pool,
		Intermediates: x509.NewCertPool(),
		// The chain is judged at the leaf's own birth; the leaf's time is InTime's.
		CurrentTime: leaf.NotBefore,
	}
	for _, c := range others {
		opts.Intermediates.AddCert(c)
	}
	opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return err
	}
	// VerifyOptions is content with any of a list of usages; and asking it for each
	// by itself makes every handshake check every signature as often.
	for _, usage := range usages {
		if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return allows(chain, usage) }) {
			return x509.CertificateInvalidError{Cert: leaf, Reason: x509.IncompatibleUsage}
		}
	}
	return nil
}

// allows reports whether every certificate of chain is for usage; one that names no
// usage is for all.
func allows(chain []*x509.Certificate, usage x509.ExtKeyUsage) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		names := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0
		return names && !slices.Contains(c.ExtKeyUsage, usage) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
	})
}

// InTime returns an error that wraps ErrClock and names both times if now is
// outside cert's validity.
func InTime(cert *x509.Certificate, now time.Time) error {
	const layout = time.RFC3339
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("certificate of %s is valid from %s but the clock here says %s: %w",
			cert.Subject.CommonName, cert.NotBefore.UTC().Format(layout), now.UTC().Format(layout), ErrClock)
	case now.After(cert.NotAfter):
		return fmt.Errorf("certificate of %s expired at %s and the clock here says %s: %w",
			cert.Subject.CommonName, cert.NotAfter.UTC().Format(layout), now.UTC().Format(layout), ErrClock)
	}
	return nil
}
