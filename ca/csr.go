package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// MaxCSRBytes bounds a certificate request.
const MaxCSRBytes = 8 << 10

// A PublicKey is the only thing taken from a certificate request.
type PublicKey struct {
	// DER SubjectPublicKeyInfo.
	DER    []byte
	SHA256 Digest
}

// ParseCSR checks a certificate request in DER: its size, that its key is ECDSA
// on P-256, and that whoever made it holds the key. Names, addresses and
// extensions in it are ignored.
func ParseCSR(der []byte) (PublicKey, error) {
	csr, key, err := readCSR(der)
	if err != nil {
		return PublicKey{}, err
	}
	if err := csr.CheckSignature(); err != nil {
		return PublicKey{}, fmt.Errorf("certificate request: its maker does not hold the key: %w", err)
	}
	return key, nil
}

// KeyOfCSR is ParseCSR for a request that is given to a signer, who looks whether its
// maker holds the key: a look that costs more than a signature.
func KeyOfCSR(der []byte) (PublicKey, error) {
	_, key, err := readCSR(der)
	return key, err
}

func readCSR(der []byte) (*x509.CertificateRequest, PublicKey, error) {
	if len(der) == 0 || len(der) > MaxCSRBytes {
		return nil, PublicKey{}, fmt.Errorf("certificate request: %d bytes, want 1 to %d", len(der), MaxCSRBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, PublicKey{}, fmt.Errorf("certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, PublicKey{}, fmt.Errorf("certificate request: key is %v, want ECDSA on P-256", csr.PublicKeyAlgorithm)
	}
	// Encoded again, so that one key has one encoding whatever the request's was.
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, PublicKey{}, fmt.Errorf("certificate request: %w", err)
	}
	return csr, PublicKey{DER: spki, SHA256: sha256.Sum256(spki)}, nil
}

// NewKey draws the private key of a node: ECDSA on P-256.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// NewCSR returns a certificate request in DER that says nothing but the key.
func NewCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}
