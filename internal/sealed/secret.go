// Package sealed keeps secrets out of sight: in memory, in the log and in files.
//
// It owns the type Secret, the ring of data keys, and the three ways bytes are
// sealed with AES-256-GCM: one log entry (TermSealer, Open), one long file in
// numbered chunks (Writer, Reader), and one small blob under a key-encryption
// key (Wrap, Unwrap). It does not decide where keys live or when they rotate.
//
// Invariant: every AEAD key is derived with HKDF from 128 fresh random bits and
// its place, so two terms, files or blobs never share one, and nonces are drawn
// by the AEAD itself.
package sealed

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// A Secret is bytes that must not reach a log, an error or a formatter. The
// zero Secret is empty.
type Secret struct{ b []byte }

// NewSecret returns b as a Secret. It copies b; the caller may clear its own.
func NewSecret(b []byte) Secret { return Secret{b: bytes.Clone(b)} }

// Reveal returns the bytes. They stay the Secret's own: read them, use them, do
// not keep or change them.
func (s Secret) Reveal() []byte { return s.b }

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// Len returns the number of bytes, which is no secret.
func (s Secret) Len() int { return len(s.b) }

// Equal reports whether s and t hold the same bytes, in time that depends on
// their lengths only.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.b, t.b) == 1 }

// Format prints "[secret]" for every verb, %#v too.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue is what slog records.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText is what encoders of text and JSON write.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }
