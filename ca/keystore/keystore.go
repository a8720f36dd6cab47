// Package keystore keeps a node's identity on its disk.
//
// It owns the files of one directory: the key-encryption key, the node's key with
// its chain, roots and facts as one file that is replaced as a whole, the key of a
// renewal that is under way, and the ring of data keys on a manager. Private keys
// and the ring are sealed under the key-encryption key. It asks nobody for
// anything and decides nothing.
//
// Without autolock the key-encryption key lies beside what it seals, readable by
// its owner only. That keeps a copied identity file or ring from being enough; it
// does not keep out who can read the whole directory. With autolock it is itself
// sealed under the cluster's unlock key, which is on no manager's disk in clear.
//
// Invariants: after a crash the identity is the old one or the new one, whole; a
// key-encryption key that lay in clear, or under an unlock key that is not the
// present one, seals nothing any more.
package keystore

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The files.
const (
	fileKEK      = "kek"
	fileIdentity = "identity.json"
	filePending  = "pending-key"
	fileRequest  = "pending-join"
	fileRing     = "ring"
)

// Format is the version of the identity file. A newer one is not opened.
const Format = 1

const kekBytes = 32

// The places that sealed blobs are bound to.
var (
	placeKey     = []byte("skep node key v1")
	placePending = []byte("skep pending key v1")
	placeRequest = []byte("skep pending join v1")
	placeRing    = []byte("skep ring v1")
)

// A Store is the keys of one node. It is safe for use by many.
type Store struct {
	dir   *os.Root
	write func(dir *os.Root, name string, data []byte) error // durable.WriteFile, but in tests

	// mu guards the fields below and is held over the writes of a change: what is
	// sealed must not be overtaken by another key-encryption key.
	mu   sync.Mutex
	kek  sealed.Secret // zero while the store is locked
	lock lockState
	// former is what files may still be sealed under, see Relock.
	former sealed.Secret
}

// Open reads the key-encryption key of dir, and makes one in a directory that
// holds nothing yet. A store that is locked opens and waits for Unlock. The
// directory stays the caller's.
func Open(dir *os.Root) (*Store, error) {
	s := &Store{dir: dir, write: durable.WriteFile}
	kek, err := durable.ReadFile(dir, fileKEK)
	if err == nil {
		if err = s.openKEK(kek); err == nil {
			err = s.opened()
		}
	}
	switch {
	case err == nil:
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("key store %s: %w", dir.Name(), err)
	}
	for _, name := range []string{fileIdentity, fileRing} {
		if _, err := dir.Stat(name); err == nil {
			return nil, fmt.Errorf("key store %s: %s is there but %s is missing: restore it, or empty the directory and join the swarm again: %w",
				dir.Name(), name, fileKEK, errdefs.ErrDataLoss)
		}
	}
	if err := s.renewKEK(sealed.Secret{}, 0); err != nil {
		return nil, fmt.Errorf("key store %s: %w", dir.Name(), err)
	}
	return s, nil
}

// opened finishes what was cut short before: a relock, or a founding or a wipe with
// a locked store, which without an identity keeps nothing for anyone.
func (s *Store) opened() error {
	if !s.kek.IsZero() {
		return s.resealFiles()
	}
	if _, err := s.dir.Stat(fileIdentity); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(durable.Remove(s.dir, filePending), durable.Remove(s.dir, fileRequest), durable.Remove(s.dir, fileRing), s.renewKEK(sealed.Secret{}, 0))
}

// KEK returns the node's key-encryption key, under which other stores on this
// node seal too; zero while the store is locked.
func (s *Store) KEK() sealed.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kek
}

// Facts are what a node knows of itself besides its certificate.
type Facts struct {
	// Advertise and Listen are host:port as given or chosen at init or join.
	Advertise string
	Listen    string
	// Interface is the one that had the advertised address when it was chosen.
	// Empty: it is no address of this machine's own, and others translate it.
	Interface string
	// Availability is the one asked for at init or join.
	Availability modelv1.Availability
	// Managers is the newest list of whom to dial, nil if there is none, and
	// ListedAt is when it came.
	Managers *cav1.ManagerList
	ListedAt time.Time
	// Named are managers that the operator named, because those of the list were
	// gone; nil once a newer list came.
	Named *cav1.ManagerList
	// FIPS: the cluster asks for FIPS 140-3 mode.
	FIPS bool
}

// A Node is all that is kept of one node's identity.
type Node struct {
	Key *ecdsa.PrivateKey
	// Chain is DER, leaf first; Roots is DER, the one that signs first.
	Chain    [][]byte
	Roots    [][]byte
	IssuedAt time.Time
	Facts    Facts
}

// Credential returns what the node proves itself with.
func (n *Node) Credential() (*ca.Credential, error) {
	roots, err := ca.ParseBundle(n.Roots)
	if err != nil {
		return nil, err
	}
	return ca.NewCredential(n.Chain, n.Key, roots, n.IssuedAt)
}

// file is the identity file: a format, the SHA-256 of body and the body.
type file struct {
	Format int             `json:"format"`
	Sum    []byte          `json:"sha256"`
	Body   json.RawMessage `json:"body"`
}

// body is what is in it. The first fields repeat the certificate for readers.
type body struct {
	Cluster      id.ID     `json:"cluster"`
	Node         id.ID     `json:"node"`
	Role         string    `json:"role"`
	Generation   uint64    `json:"generation"`
	IssuedAt     time.Time `json:"issued_at"`
	NotAfter     time.Time `json:"not_after"`
	SealedPKCS8  []byte    `json:"sealed_pkcs8"`
	Chain        [][]byte  `json:"chain"`
	Roots        [][]byte  `json:"roots"`
	Advertise    string    `json:"advertise,omitempty"`
	Interface    string    `json:"interface,omitempty"`
	Listen       string    `json:"listen,omitempty"`
	Availability int32     `json:"availability,omitempty"`
	Managers     []byte    `json:"managers,omitempty"`
	ListedAt     time.Time `json:"listed_at,omitzero"`
	Named        []byte    `json:"named,omitempty"`
	FIPS         bool      `json:"fips,omitempty"`
}

// Save replaces the identity by n, durably, after checking that its parts belong
// together.
func (s *Store) Save(n *Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save(n)
}

func (s *Store) save(n *Node) error {
	cred, err := n.Credential()
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	key, err := s.sealKey(n.Key, placeKey)
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	b := body{
		Cluster: cred.Identity.Cluster, Node: cred.Identity.Node, Role: cred.Identity.Role.String(),
		Generation: cred.Identity.Generation, IssuedAt: n.IssuedAt, NotAfter: cred.Identity.NotAfter,
		SealedPKCS8: key, Chain: n.Chain, Roots: n.Roots,
		Advertise: n.Facts.Advertise, Interface: n.Facts.Interface, Listen: n.Facts.Listen, Availability: int32(n.Facts.Availability), ListedAt: n.Facts.ListedAt, FIPS: n.Facts.FIPS,
	}
	if b.Managers, err = listed(n.Facts.Managers); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	if b.Named, err = listed(n.Facts.Named); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	text, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	sum := sha256.Sum256(text)
	text, err = json.Marshal(file{Format: Format, Sum: sum[:], Body: text})
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	return s.write(s.dir, fileIdentity, append(text, '\n'))
}

// Load returns the identity. If there is none the error is fs.ErrNotExist: the
// node is in no cluster; if the store is locked it is ErrLocked.
func (s *Store) Load() (*Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

func (s *Store) load() (*Node, error) {
	text, err := durable.ReadFile(s.dir, fileIdentity)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	b, err := readBody(text)
	if err != nil {
		return nil, fmt.Errorf("load identity from %s/%s: %w", s.dir.Name(), fileIdentity, err)
	}
	n := &Node{Chain: b.Chain, Roots: b.Roots, IssuedAt: b.IssuedAt, Facts: Facts{
		Advertise: b.Advertise, Interface: b.Interface, Listen: b.Listen, Availability: modelv1.Availability(b.Availability), ListedAt: b.ListedAt, FIPS: b.FIPS,
	}}
	if n.Key, err = s.openKey(b.SealedPKCS8, placeKey); err != nil {
		return nil, fmt.Errorf("load identity: key of node %s: %w", b.Node, err)
	}
	if n.Facts.Managers, err = unlisted(b.Managers); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if n.Facts.Named, err = unlisted(b.Named); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if _, err := n.Credential(); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	return n, nil
}

// listed is a list of managers as the file holds it; nothing for nil.
func listed(l *cav1.ManagerList) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	data, err := proto.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("list of managers: %w", err)
	}
	return data, nil
}

// unlisted undoes listed.
func unlisted(data []byte) (*cav1.ManagerList, error) {
	if len(data) == 0 {
		return nil, nil
	}
	l := &cav1.ManagerList{}
	if err := proto.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("list of managers: %w", err)
	}
	return l, nil
}

// readBody checks format and sum. It never quotes the file.
func readBody(text []byte) (body, error) {
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return body{}, fmt.Errorf("not an identity file: %w", errdefs.ErrDataLoss)
	}
	if f.Format != Format {
		return body{}, fmt.Errorf("format %d, this version knows %d: run the version that wrote it: %w", f.Format, Format, errdefs.ErrNotImplemented)
	}
	if sum := sha256.Sum256(f.Body); string(sum[:]) != string(f.Sum) {
		return body{}, fmt.Errorf("its checksum is wrong, the file was changed or damaged: %w", errdefs.ErrDataLoss)
	}
	var b body
	if err := json.Unmarshal(f.Body, &b); err != nil {
		return body{}, fmt.Errorf("its body is not readable: %w", errdefs.ErrDataLoss)
	}
	return b, nil
}

// Wipe forgets everything, when the node leaves, and makes the store a new one:
// what the old key-encryption key sealed, copies included, nothing opens again. A
// locked store is wiped as well.
func (s *Store) Wipe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, name := range []string{fileIdentity, filePending, fileRequest, fileRing} {
		errs = append(errs, durable.Remove(s.dir, name))
	}
	s.kek, s.former = sealed.Secret{}, sealed.Secret{}
	return errors.Join(append(errs, s.renewKEK(sealed.Secret{}, 0))...)
}
