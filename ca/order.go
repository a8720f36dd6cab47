package ca

import (
	"fmt"
	"math/big"
	"net/url"
	"strings"
)

// MaxExternal bounds how many external CAs are asked, one after the other.
const MaxExternal = 8

// An Order is what a CA outside of the swarm is asked to sign: all that a leaf says
// but its times and what its key may be used for, which are for that CA's profile to
// say.
type Order struct {
	// Request is a certificate request of the key, DER.
	Request []byte
	// Name and Organization are the whole subject, Hosts all names.
	Name         string
	Organization string
	Hosts        []string
	// Profile is what the CA is to know this kind of leaf by.
	Profile string
	// Serial is proposed; the CA may take another.
	Serial *big.Int
}

// CheckExternal returns an error unless text is where an external CA can be reached:
// https, a host, and nothing but a port besides.
func CheckExternal(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("url %.100q is none", text)
	case u.Scheme != "https":
		return fmt.Errorf("url %.100q: want https://HOST[:PORT]; without TLS anybody on the way could sign", u.Redacted())
	case u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("url %.100q: want https://HOST[:PORT] and nothing besides", u.Redacted())
	case strings.ToLower(text) != text:
		return fmt.Errorf("url %.100q: want it in small letters", text)
	}
	return nil
}

// Unfit says in words why an order cannot be carried out as it is, through no fault of
// the CA that was asked.
type Unfit string

func (u Unfit) Error() string { return string(u) }
