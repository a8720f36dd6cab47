package issue

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// leastRoot is how much of its life a root that an operator gives must have left.
const leastRoot = 30 * 24 * time.Hour

// CheckRoot returns an error if a root that an operator gives cannot be a cluster's:
// it does not sign itself, its key is not an ECDSA key or not its own, it may sign
// no other root, or is over soon.
func CheckRoot(der []byte, key sealed.Secret, now time.Time) error {
	is, err := New([][]byte{der}, key)
	if err != nil {
		return err
	}
	return is.canLead(now)
}

// canLead is CheckRoot but for the key.
func (is *Issuer) canLead(now time.Time) error {
	root := is.root
	switch {
	case root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s may not sign certificates", root.Subject)
	case !bytes.Equal(root.RawSubject, root.RawIssuer) || root.CheckSignatureFrom(root) != nil:
		return fmt.Errorf("%s does not sign itself: a root is needed, and not what a root has signed", root.Subject)
	case root.MaxPathLen == 0 && root.MaxPathLenZero:
		return fmt.Errorf("%s may sign no authority (its path length is 0): no rotation would lead away from it", root.Subject)
	case now.Before(root.NotBefore):
		return fmt.Errorf("%s is valid from %s only", root.Subject, root.NotBefore.UTC().Format(time.RFC3339))
	case root.NotAfter.Sub(now) < leastRoot:
		return fmt.Errorf("%s is over at %s: at least %v are needed", root.Subject, root.NotAfter.UTC().Format(time.RFC3339), leastRoot)
	}
	return nil
}

// Cross certifies the root next by the root from: who trusts only that verifies by
// it what next signs. It says of next what next says of itself, but for the serial,
// and is over with the first of the two.
func Cross(from []byte, key sealed.Secret, next []byte) ([]byte, error) {
	is, err := New([][]byte{from}, key)
	if err != nil {
		return nil, err
	}
	priv, err := x509.ParsePKCS8PrivateKey(key.Reveal())
	if err != nil {
		return nil, errors.New("the key of the root is not readable")
	}
	to, err := x509.ParseCertificate(next)
	if err != nil {
		return nil, fmt.Errorf("next root: %w", err)
	}
	public, ok := to.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("next root: its key is a %T, want ECDSA", to.PublicKey)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(newSerial()), RawSubject: to.RawSubject, SubjectKeyId: to.SubjectKeyId,
		NotBefore: to.NotBefore, NotAfter: to.NotAfter, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// How far down it may sign is for the roots to say.
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
	}
	if is.root.NotBefore.After(template.NotBefore) {
		template.NotBefore = is.root.NotBefore
	}
	if is.root.NotAfter.Before(template.NotAfter) {
		template.NotAfter = is.root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, is.root, public, priv)
	if err != nil {
		return nil, fmt.Errorf("certify %s by %s: %w", to.Subject, is.root.Subject, err)
	}
	return der, nil
}

// Leads returns an error unless what a root signs is verified by who trusts only
// the root from, with the certificates via: it is tried.
func Leads(from []byte, via [][]byte, root []byte, key sealed.Secret, now time.Time) error {
	is, err := New([][]byte{root}, key)
	if err != nil {
		return err
	}
	if is, err = is.Via(via); err != nil {
		return err
	}
	trust, err := ca.ParseBundle([][]byte{from})
	if err != nil {
		return err
	}
	priv, err := ca.NewKey()
	if err != nil {
		return err
	}
	csr, err := ca.NewCSR(priv)
	if err != nil {
		return err
	}
	public, err := ca.ParseCSR(csr)
	if err != nil {
		return err
	}
	p := ca.Profile{Cluster: id.New(), Node: id.New(), Role: modelv1.Role_ROLE_MANAGER, Generation: 1, Lifetime: ca.ManagerLifetime}
	record, err := is.Prepare(p, public, now)
	if err != nil {
		return err
	}
	chain, err := is.Sign(p.Cluster, p.Node, record, csr)
	if err != nil {
		return err
	}
	_, err = ca.NewCredential(chain, priv, trust, now)
	return err
}
