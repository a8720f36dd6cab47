// Package wallet keeps what a client carries to be somebody in a swarm from
// anywhere: contexts.
//
// It owns the form of a context (one file: who one is, the key that proves it, the
// roots one trusts, where managers are) and the directory they lie in. It talks to
// nobody; cli/conn uses a context and cli/contexts is its commands.
//
// Invariants: a file is whole, and readable by its owner only; a list of managers
// is never replaced by an older one; no key is printed but by export.
package wallet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Context is who somebody is in one swarm, and where its managers are. It is
// never changed; what is learnt makes another.
type Context struct {
	// Credential proves who one is, and holds whom one trusts.
	Credential *ca.UserCredential
	// Role is the one the user had when the certificate was made; the live one is
	// the managers' to know.
	Role modelv1.UserRole
	// Managers is the newest list, and ListedAt when it was received (R15).
	Managers *cav1.ManagerList
	ListedAt time.Time
	// Last is the address of the manager that answered last; may be empty.
	Last string

	key *ecdsa.PrivateKey
}

// New makes a context of what a manager issued for key.
func New(issued *controlv1.IssuedUser, key *ecdsa.PrivateKey, now time.Time) (*Context, error) {
	roots, err := ca.ParseBundle(issued.GetRoots())
	if err != nil {
		return nil, fmt.Errorf("the manager's answer: %w", err)
	}
	cred, err := ca.NewUserCredential(issued.GetChain(), key, roots)
	if err != nil {
		return nil, fmt.Errorf("the manager's answer: %w", err)
	}
	if !bytes.Equal(cred.Identity.Cluster.Bytes(), issued.GetCluster()) || cred.Identity.Name != issued.GetUser().GetName() {
		return nil, fmt.Errorf("the manager's answer: the certificate is of user %s of swarm %s", cred.Identity.Name, cred.Identity.Cluster)
	}
	return &Context{Credential: cred, Role: issued.GetUser().GetRole(), Managers: issued.GetManagers(), ListedAt: now, key: key}, nil
}

// Name is the user's.
func (c *Context) Name() string { return c.Credential.Identity.Name }

// Renewed is c with the next certificate of the same user.
func (c *Context) Renewed(issued *controlv1.IssuedUser, key *ecdsa.PrivateKey, now time.Time) (*Context, error) {
	next, err := New(issued, key, now)
	if err != nil {
		return nil, err
	}
	if who := next.Credential.Identity; who.Cluster != c.Credential.Identity.Cluster || who.User != c.Credential.Identity.User {
		return nil, fmt.Errorf("the manager's answer: the certificate is another user's, %s", who.Name)
	}
	next.Last = c.Last
	if !newer(c.Managers, next.Managers, true) {
		next.Managers, next.ListedAt = c.Managers, c.ListedAt
	}
	return next, nil
}

// Learn is c with what a manager at an address said at now: its list and roots,
// if the list is newer than the one c has. certain says that the manager was in
// contact with the quorum. changed reports whether there is anything to keep.
func (c *Context) Learn(resp *controlv1.ListManagersResponse, address string, certain bool, now time.Time) (out *Context, changed bool) {
	next := *c
	next.Last = address
	cred := c.trusting(resp.GetRoots())
	rotated := certain && cred != nil && cred.Roots.Digest() != c.Credential.Roots.Digest() && later(c.Managers, resp.GetManagers())
	if rotated || newer(c.Managers, resp.GetManagers(), certain) {
		next.Managers, next.ListedAt, changed = resp.GetManagers(), now, true
		if certain && cred != nil {
			next.Credential = cred
		}
	}
	return &next, changed || next.Last != c.Last
}

// trusting returns c's credential with other roots; nil if those do not vouch for
// it or are none.
func (c *Context) trusting(ders [][]byte) *ca.UserCredential {
	roots, err := ca.ParseBundle(ders)
	if err != nil {
		return nil
	}
	cred, err := ca.NewUserCredential(c.Credential.Chain, c.key, roots)
	if err != nil {
		return nil
	}
	return cred
}

// newer reports whether list may take the place of have: it is of a later index,
// or of another history, which only a manager in contact with a quorum can vouch
// for (R1). A list that names nobody is none.
func newer(have, list *cav1.ManagerList, certain bool) bool {
	switch {
	case len(list.GetManagers()) == 0:
		return false
	case len(have.GetManagers()) == 0:
		return true
	case bytes.Equal(have.GetHistory(), list.GetHistory()):
		return later(have, list) && !sameManagers(have, list)
	}
	return certain
}

// later reports whether list is of a later index of the same history.
func later(have, list *cav1.ManagerList) bool {
	return bytes.Equal(have.GetHistory(), list.GetHistory()) && len(list.GetManagers()) > 0 && list.GetIndex() > have.GetIndex()
}

// sameManagers spares a write of the file where only the index has moved on.
func sameManagers(a, b *cav1.ManagerList) bool {
	return proto.Equal(&cav1.ManagerList{Managers: a.GetManagers()}, &cav1.ManagerList{Managers: b.GetManagers()})
}

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// encodeKey writes a key as PKCS#8 in PEM.
func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the key cannot be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// decodeKey undoes encodeKey. No error quotes what it read.
func decodeKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("the key is not one")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key is not readable")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, want ECDSA", parsed)
	}
	return key, nil
}

func encodeCerts(ders [][]byte) string {
	var b bytes.Buffer
	for _, der := range ders {
		_ = pem.Encode(&b, &pem.Block{Type: certificateBlock, Bytes: der}) // a buffer takes everything
	}
	return b.String()
}

func decodeCerts(text string) (ders [][]byte, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != certificateBlock {
			return nil, fmt.Errorf("a %q where a certificate is wanted", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
	return ders, nil
}
