package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/sealed"
)

// A Purpose is what a seal is made for. It is part of what is signed, so that one
// cannot pass for the other; nor can anything else the CA signs.
type Purpose string

// The purposes. An export's seal says that nothing followed at that moment; a
// checkpoint's, in the trail itself, only that the record was there.
const (
	ForTrail  Purpose = "checkpoint"
	ForExport Purpose = "export"
)

// A Seal is the CA's signature over a record, and with it over all before it.
type Seal struct {
	Cluster string `json:"cluster"`
	History string `json:"history"`
	// Seq and Hash are the record's; 0 of an export without any.
	Seq  uint64    `json:"seq"`
	Hash Hash      `json:"hash"`
	At   time.Time `json:"at"`
	// Root is the SHA-256 of the root whose key signed, or that has certified Manager.
	Root      Hash   `json:"root"`
	Signature []byte `json:"signature"`
	// Manager is the certificate, DER, of the manager whose key signed in the place of
	// the root's, which an external CA keeps. Empty: the root's own did.
	Manager []byte `json:"manager,omitempty"`
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// signed is what the signature is over. A certificate's begins with another byte, and
// so does what TLS has the key of a manager sign.
func (s *Seal) signed(p Purpose) []byte {
	text := fmt.Appendf(nil, "skep audit %s\nformat 1\ncluster %s\nhistory %s\nseq %d\nhash %s\nat %s\nroot %s\n",
		p, s.Cluster, s.History, s.Seq, s.Hash, s.At.UTC().Format(time.RFC3339Nano), s.Root)
	if len(s.Manager) > 0 {
		text = fmt.Appendf(text, "manager %s\n", HashOf(s.Manager))
	}
	return text
}

// SignAs signs s, as Sign does, with the key of a manager's certificate that one of the
// certificates (DER) has signed. It sets Root, Manager and Signature.
func (s *Seal) SignAs(p Purpose, certificates [][]byte, leaf *x509.Certificate, key crypto.Signer) error {
	for _, der := range certificates {
		root, err := x509.ParseCertificate(der)
		if err != nil || leaf.CheckSignatureFrom(root) != nil {
			continue
		}
		s.Root, s.Manager = HashOf(der), leaf.Raw
		s.Signature, err = sign(key, s.signed(p))
		return err
	}
	return errors.New("sign a checkpoint: this manager's certificate is of none of the roots that are trusted")
}

// Sign signs s, whose other fields are set, with the key (PKCS#8) of one of the
// certificates (DER). It sets Root and Signature.
func (s *Seal) Sign(p Purpose, certificates [][]byte, key sealed.Secret) error {
	parsed, err := x509.ParsePKCS8PrivateKey(key.Reveal())
	if err != nil {
		return errors.New("sign a checkpoint: the CA's key is not readable") // the cause may quote bytes of it
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return errors.New("sign a checkpoint: the CA's key is of a kind that does not sign")
	}
	for _, der := range certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil || !samePublic(cert.PublicKey, signer.Public()) {
			continue
		}
		s.Root = HashOf(der)
		s.Signature, err = sign(signer, s.signed(p))
		return err
	}
	return errors.New("sign a checkpoint: the CA's key is that of none of its certificates")
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func sign(signer crypto.Signer, text []byte) ([]byte, error) {
	opts, sum := crypto.SHA256, sha256.Sum256(text)
	digest := sum[:]
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		opts, digest = crypto.Hash(0), text
	}
	sig, err := signer.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return sig, nil
}

// check returns nil if the key of the root signed s, or that of a manager of the
// cluster that the root has certified for that time.
func (s *Seal) check(p Purpose, root *x509.Certificate) error {
	if len(s.Manager) == 0 {
		return s.signedBy(root, p)
	}
	leaf, err := x509.ParseCertificate(s.Manager)
	if err != nil {
		return err
	}
	switch {
	case leaf.IsCA || !slices.Contains(leaf.DNSNames, "manager."+s.Cluster):
		return errors.New("the certificate is not a manager's of this cluster")
	case s.At.Before(leaf.NotBefore) || s.At.After(leaf.NotAfter):
		return errors.New("the manager's certificate did not count then")
	}
	if err := leaf.CheckSignatureFrom(root); err != nil {
		return err
	}
	return s.signedBy(leaf, p)
}

func (s *Seal) signedBy(root *x509.Certificate, p Purpose) error {
	algorithm := x509.SHA256WithRSA
	switch root.PublicKey.(type) {
	case *ecdsa.PublicKey:
		algorithm = x509.ECDSAWithSHA256
	case ed25519.PublicKey:
		algorithm = x509.PureEd25519
	}
	return root.CheckSignature(algorithm, s.signed(p), s.Signature)
}
