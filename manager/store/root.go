package store

import (
	"bytes"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Signer is the digest of the root that signs; zero if there is none.
func Signer(r *modelv1.RootCA) ca.Digest {
	if len(r.GetCertificates()) == 0 {
		return ca.Digest{}
	}
	return ca.RootDigest(r.GetCertificates()[0])
}

// PinnedRoot is the root, DER, that join tokens made now pin; nil if there is
// none. During a rotation it is the one of before: it counts for them whether the
// rotation ends well or is aborted.
func PinnedRoot(r *modelv1.RootCA) []byte {
	switch {
	case r.GetRotation() != nil:
		return r.GetRotation().GetFrom().GetCertificate()
	case len(r.GetCertificates()) > 0:
		return r.GetCertificates()[0]
	}
	return nil
}

// Trusted reports whether what a root with the digest has signed counts. A record
// that does not say what signed it is left to who verifies the certificate.
func Trusted(r *modelv1.RootCA, issuer []byte) bool {
	if len(issuer) == 0 {
		return true
	}
	for _, der := range r.GetCertificates() {
		if d := ca.RootDigest(der); bytes.Equal(d[:], issuer) {
			return true
		}
	}
	return false
}
