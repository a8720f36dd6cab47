package sealed

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// wrapFormat is the first byte of every wrapped blob.
const wrapFormat = 1

// ErrWrongKey says that a blob does not open under the key that was given: the
// key is another one, or the blob was changed. It cannot be told which.
var ErrWrongKey = fmt.Errorf("sealed data does not open under this key: %w", errdefs.ErrPermissionDenied)

// Wrap seals a small blob (a ring, a private key, a row of a journal) under a
// key-encryption key of any length above 15 bytes. aad names the place: a blob
// opens only under the same words. The result is one format byte, 16 bytes of
// salt, 12 of nonce, the ciphertext and 16 of tag.
func Wrap(kek Secret, plaintext, aad []byte) ([]byte, error) {
	if kek.Len() < 16 {
		return nil, fmt.Errorf("wrap: key-encryption key of %d bytes, want 16 or more: %w", kek.Len(), errdefs.ErrInvalidArgument)
	}
	out := make([]byte, 1+SaltBytes, 1+SaltBytes+overhead+len(plaintext))
	out[0] = wrapFormat
	_, _ = rand.Read(out[1:]) // never fails: the runtime ends the process when there is no randomness
	aead, err := derive(kek, out[1:], "skep wrap v1")
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, nil, plaintext, aad), nil
}

// Unwrap returns what Wrap sealed under kek and aad, or ErrWrongKey.
func Unwrap(kek Secret, blob, aad []byte) ([]byte, error) {
	if len(blob) == 0 {
		return nil, errors.Join(errors.New("unwrap: nothing there"), ErrWrongKey)
	}
	if blob[0] != wrapFormat {
		return nil, fmt.Errorf("unwrap: format %d, this version knows %d; run the version that wrote it: %w", blob[0], wrapFormat, errdefs.ErrNotImplemented)
	}
	if len(blob) < 1+SaltBytes+overhead {
		return nil, fmt.Errorf("unwrap: %d bytes: %w", len(blob), ErrWrongKey)
	}
	aead, err := derive(kek, blob[1:1+SaltBytes], "skep wrap v1")
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, blob[1+SaltBytes:], aad)
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", ErrWrongKey)
	}
	return plain, nil
}
