// Package id names things for the life of a cluster.
//
// An ID is 128 random bits: 16 bytes in memory, on the wire and on disk, and 25
// lower-case base-36 digits where people read it. It is never reused and says
// nothing about what it names.
//
// Invariant: Parse(x.String()) == x for every x, and no two strings parse to the
// same ID.
package id

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
)

const (
	// Size is the number of bytes of an ID.
	Size = 16
	// Digits is the number of base-36 digits that people read.
	Digits = 25
	// ShortDigits is how many of them a table shows.
	ShortDigits = 12

	alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
)

// An ID names one object. The zero ID names nothing.
type ID [Size]byte

// New draws an ID. It is never zero.
func New() ID {
	var x ID
	for x.IsZero() {
		// Read never fails: the runtime ends the process when there is no randomness.
		_, _ = rand.Read(x[:])
	}
	return x
}

// IsZero reports whether x names nothing.
func (x ID) IsZero() bool { return x == ID{} }

// String returns x as 25 base-36 digits, leading zeros included, so that the
// strings sort as the bytes do.
func (x ID) String() string {
	var out [Digits]byte
	hi, lo := binary.BigEndian.Uint64(x[:8]), binary.BigEndian.Uint64(x[8:])
	for i := Digits - 1; i >= 0; i-- {
		var rem uint64
		hi, rem = hi/36, hi%36
		lo, rem = bits.Div64(rem, lo, 36)
		out[i] = alphabet[rem]
	}
	return string(out[:])
}

// Short returns the first 12 digits, as tables show them.
func (x ID) Short() string { return x.String()[:ShortDigits] }

// Bytes returns the 16 bytes of x, or nil if x is zero: what a bytes field of a
// message holds. The slice is the caller's own.
func (x ID) Bytes() []byte {
	if x.IsZero() {
		return nil
	}
	return bytes.Clone(x[:])
}

// MarshalText returns the 25 digits; the zero ID is the empty text.
func (x ID) MarshalText() ([]byte, error) {
	if x.IsZero() {
		return nil, nil
	}
	return []byte(x.String()), nil
}

// UnmarshalText sets x from what MarshalText made.
func (x *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*x = ID{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*x = parsed
	return nil
}

// Parse returns the ID that s spells, or an error that quotes what was wrong.
func Parse(s string) (ID, error) {
	if len(s) != Digits {
		return ID{}, fmt.Errorf("id %q: want %d digits of base 36", s, Digits)
	}
	var hi, lo uint64
	for i := range len(s) {
		d, ok := digit(s[i])
		if !ok {
			return ID{}, fmt.Errorf("id %q: %q is not a lower-case base-36 digit", s, s[i])
		}
		carry, low := bits.Mul64(lo, 36)
		low, c := bits.Add64(low, d, 0)
		over, high := bits.Mul64(hi, 36)
		high, c = bits.Add64(high, carry, c)
		if over != 0 || c != 0 {
			return ID{}, fmt.Errorf("id %q: greater than any id", s)
		}
		hi, lo = high, low
	}
	var x ID
	binary.BigEndian.PutUint64(x[:8], hi)
	binary.BigEndian.PutUint64(x[8:], lo)
	return x, nil
}

func digit(c byte) (uint64, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0'), true
	case c >= 'a' && c <= 'z':
		return uint64(c-'a') + 10, true
	}
	return 0, false
}

// MustParse is Parse for tests and constants.
func MustParse(s string) ID {
	x, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return x
}

// FromBytes returns the ID whose bytes are b. An empty b is the zero ID: an
// absent field. Any other length than 16 is refused.
func FromBytes(b []byte) (ID, error) {
	var x ID
	switch len(b) {
	case 0:
		return x, nil
	case Size:
		copy(x[:], b)
		return x, nil
	}
	return x, fmt.Errorf("id of %d bytes: want %d", len(b), Size)
}

// Compare orders IDs by their bytes, which is the order of their strings.
func Compare(a, b ID) int { return bytes.Compare(a[:], b[:]) }
