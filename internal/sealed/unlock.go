package sealed

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
)

const (
	// unlockPrefix begins an unlock key as people see it; the digit is its format.
	unlockPrefix = "SKEPKEY-1-"
	// unlockSum is how many bytes of a checksum follow the key's 32, so that a slip
	// of the finger is told from another key. Together they are 56 letters.
	unlockSum = 3
	// MaxUnlockText bounds an unlock key as it is typed, spaces included.
	MaxUnlockText = 256
)

var base32Letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewUnlockKey draws an unlock key: KeyBytes random bytes.
func NewUnlockKey() Secret {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // never fails: the runtime ends the process when there is no randomness
	return Secret{b: key}
}

// SpellUnlockKey returns an unlock key as people keep it: "SKEPKEY-1-" and 56
// letters and digits of base 32. It is as secret as the key.
func SpellUnlockKey(key Secret) Secret {
	return Secret{b: append([]byte(unlockPrefix), base32Letters.EncodeToString(append(bytes.Clone(key.b), sumOf(key.b)...))...)}
}

// ParseUnlockKey undoes SpellUnlockKey. Spaces, the end of a line and small letters
// are forgiven; a slip of the finger is not, and no error quotes the text.
func ParseUnlockKey(text Secret) (Secret, error) {
	if text.Len() > MaxUnlockText {
		return Secret{}, fmt.Errorf("unlock key: more than %d bytes", MaxUnlockText)
	}
	t := bytes.ToUpper(bytes.Join(bytes.Fields(text.b), nil))
	rest, found := bytes.CutPrefix(t, []byte(unlockPrefix))
	if !found {
		return Secret{}, fmt.Errorf("unlock key: it does not begin with %s", unlockPrefix)
	}
	const want = (KeyBytes + unlockSum) * 8 / 5
	if len(rest) != want {
		return Secret{}, fmt.Errorf("unlock key: %d letters follow %s, want %d", len(rest), unlockPrefix, want)
	}
	raw := make([]byte, KeyBytes+unlockSum)
	if _, err := base32Letters.Decode(raw, rest); err != nil {
		return Secret{}, errors.New("unlock key: only the letters A to Z and the digits 2 to 7 are in one")
	}
	if !bytes.Equal(raw[KeyBytes:], sumOf(raw[:KeyBytes])) {
		return Secret{}, errors.New("unlock key: mistyped, its checksum is wrong")
	}
	return Secret{b: raw[:KeyBytes:KeyBytes]}, nil
}

// sumOf is the checksum of a key. What it tells of 256 random bits helps nobody.
func sumOf(key []byte) []byte {
	sum := sha256.Sum256(append([]byte("skep unlock key v1\x00"), key...))
	return sum[:unlockSum]
}
