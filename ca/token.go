package ca

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"strings"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

const (
	tokenPrefix  = "SWMTKN"
	tokenFormat  = "1"
	fipsFormat   = "2-1" // of a cluster that asks for FIPS 140-3 mode; Swarm's
	digestDigits = 50    // base-36 digits of 256 bits
	// TokenSecretSize is the number of bytes of a join token's secret.
	TokenSecretSize = id.Size
)

// A Token lets a machine join: it pins the cluster's root and shows that an
// operator wants the machine in. Which role it gives is the cluster's to know.
//
// Its text is "SWMTKN-1-<digest>-<secret>", 50 and 25 base-36 digits; or, if FIPS,
// "SWMTKN-2-1-<digest>-<secret>", which a program that knows no such mode does not
// read.
type Token struct {
	// Digest is that of one root certificate of the cluster.
	Digest Digest
	// Secret is TokenSecretSize bytes.
	Secret sealed.Secret
	// FIPS tells the machine that the cluster asks for FIPS 140-3 mode, before it
	// has asked anybody. It is a courtesy: managers judge by their own record.
	FIPS bool
}

// NewTokenSecret draws the secret of a token.
func NewTokenSecret() sealed.Secret {
	b := make([]byte, TokenSecretSize)
	_, _ = rand.Read(b) // never fails: the runtime ends the process instead
	return sealed.NewSecret(b)
}

// Reveal returns the whole token, for the operator who asked for it.
func (t Token) Reveal() string {
	var secret id.ID
	copy(secret[:], t.Secret.Reveal())
	return t.spell(secret.String())
}

// String returns the public part of the token, for logs and errors.
func (t Token) String() string {
	return t.spell("[secret]")
}

func (t Token) spell(secret string) string {
	format := tokenFormat
	if t.FIPS {
		format = fipsFormat
	}
	return strings.Join([]string{tokenPrefix, format, digestText(t.Digest), secret}, "-")
}

// ParseToken returns the token that s spells. No error quotes a secret.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), "-")
	fips := len(parts) == 5 && parts[1]+"-"+parts[2] == fipsFormat
	if fips {
		parts = append([]string{parts[0], tokenFormat}, parts[3:]...)
	}
	if len(parts) != 4 {
		return Token{}, fmt.Errorf("token: want 4 parts with dashes between, got %d", len(parts))
	}
	if parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("token: it does not begin with %s", tokenPrefix)
	}
	if parts[1] != tokenFormat {
		return Token{}, fmt.Errorf("token: format is not %s: it was made by another version", tokenFormat)
	}
	digest, ok := parseDigest(parts[2])
	if !ok {
		return Token{}, fmt.Errorf("token: third part is not a digest of %d base-36 digits", digestDigits)
	}
	secret, err := id.Parse(parts[3])
	if err != nil {
		return Token{}, fmt.Errorf("token: last part is not a secret of %d base-36 digits", id.Digits)
	}
	return Token{Digest: digest, Secret: sealed.NewSecret(secret[:]), FIPS: fips}, nil
}

func digestText(d Digest) string {
	text := new(big.Int).SetBytes(d[:]).Text(36)
	return strings.Repeat("0", digestDigits-len(text)) + text
}

func parseDigest(s string) (Digest, bool) {
	if len(s) != digestDigits || strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		return Digest{}, false
	}
	n, ok := new(big.Int).SetString(s, 36)
	if !ok || n.BitLen() > 8*len(Digest{}) {
		return Digest{}, false
	}
	var d Digest
	n.FillBytes(d[:])
	return d, true
}
