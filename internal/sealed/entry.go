package sealed

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

// EntryFormat is the only format of a sealed entry that this binary knows.
const EntryFormat = 1

// A TermSealer seals the entries that one proposer makes in one term (R19). It
// is for one goroutine. Source: the derivation is rule R19 of the design.
type TermSealer struct {
	aead           cipher.AEAD
	aad, salt      []byte
	key            uint32
	term, proposer uint64
}

// NewTermSealer derives the key of (cluster, history, term, proposer) from the
// ring's active key and 128 bits of random.
func NewTermSealer(ring *Ring, cluster, history id.ID, term, proposer uint64, random io.Reader) (*TermSealer, error) {
	s := &TermSealer{key: ring.Active(), term: term, proposer: proposer, salt: make([]byte, SaltBytes)}
	if _, err := io.ReadFull(random, s.salt); err != nil {
		return nil, fmt.Errorf("draw the salt of term %d: %w", term, err)
	}
	key, ok := ring.Key(s.key)
	if !ok {
		return nil, fmt.Errorf("seal entries of term %d: data key %d: %w", term, s.key, ErrUnknownKey)
	}
	var err error
	s.aead, err = derive(key, s.salt, entryInfo(cluster, term, proposer))
	s.aad = entryAAD(cluster, history, s.key, term)
	return s, err
}

// Key returns the number of the ring key that entries are sealed under.
func (s *TermSealer) Key() uint32 { return s.key }

// Seal returns e sealed. It sets e's term and proposer; the sequence is the
// caller's.
func (s *TermSealer) Seal(e *logv1.Entry) ([]byte, error) {
	e.Term, e.Proposer = s.term, s.proposer
	plain, err := proto.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode entry %d of term %d: %w", e.GetSequence(), s.term, err)
	}
	box := s.aead.Seal(make([]byte, 0, len(plain)+overhead), nil, plain, s.aad)
	data, err := proto.Marshal(&logv1.Sealed{
		Format: EntryFormat, KeyId: s.key, Salt: s.salt,
		Term: s.term, Proposer: s.proposer, Box: box,
	})
	if err != nil {
		return nil, fmt.Errorf("encode entry %d of term %d: %w", e.GetSequence(), s.term, err)
	}
	return data, nil
}

// An Opener opens sealed entries. It keeps the last derived key, since entries
// of one term follow each other. It is for one goroutine.
type Opener struct {
	ring             *Ring
	cluster, history id.ID

	last cacheKey
	aead cipher.AEAD
}

type cacheKey struct {
	key            uint32
	term, proposer uint64
	salt           [SaltBytes]byte
}

// NewOpener returns an opener for the entries of one cluster's history.
func NewOpener(ring *Ring, cluster, history id.ID) *Opener {
	return &Opener{ring: ring, cluster: cluster, history: history}
}

// Open returns the entry in data, whose header agrees with its envelope. The
// errors are ErrUnknownKey, ErrTampered, and one about a format of the future.
func (o *Opener) Open(data []byte) (*logv1.Entry, error) {
	var box logv1.Sealed
	if err := proto.Unmarshal(data, &box); err != nil {
		return nil, fmt.Errorf("open entry: %w", ErrTampered)
	}
	if box.GetFormat() != EntryFormat {
		return nil, fmt.Errorf("open entry: format %d, this version knows %d; run the version that wrote it: %w", box.GetFormat(), EntryFormat, errdefs.ErrNotImplemented)
	}
	aead, err := o.cipher(&box)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, box.GetBox(), entryAAD(o.cluster, o.history, box.GetKeyId(), box.GetTerm()))
	if err != nil {
		return nil, fmt.Errorf("open entry of term %d: %w", box.GetTerm(), ErrTampered)
	}
	e := &logv1.Entry{}
	if err := proto.Unmarshal(plain, e); err != nil {
		return nil, fmt.Errorf("open entry of term %d: %w", box.GetTerm(), ErrTampered)
	}
	if e.GetTerm() != box.GetTerm() || e.GetProposer() != box.GetProposer() {
		return nil, fmt.Errorf("open entry of term %d: %w", box.GetTerm(), ErrTampered)
	}
	return e, nil
}

func (o *Opener) cipher(box *logv1.Sealed) (cipher.AEAD, error) {
	if len(box.GetSalt()) != SaltBytes {
		return nil, fmt.Errorf("open entry of term %d: salt of %d bytes: %w", box.GetTerm(), len(box.GetSalt()), ErrTampered)
	}
	want := cacheKey{key: box.GetKeyId(), term: box.GetTerm(), proposer: box.GetProposer(), salt: [SaltBytes]byte(box.GetSalt())}
	if o.aead != nil && o.last == want {
		return o.aead, nil
	}
	key, ok := o.ring.Key(want.key)
	if !ok {
		return nil, fmt.Errorf("open entry of term %d: data key %d: %w", want.term, want.key, ErrUnknownKey)
	}
	aead, err := derive(key, want.salt[:], entryInfo(o.cluster, want.term, want.proposer))
	if err != nil {
		return nil, err
	}
	o.last, o.aead = want, aead
	return aead, nil
}

// KeyOf returns the number of the data key that an entry says it is sealed under; 0
// if it is no sealed entry.
func KeyOf(data []byte) uint32 {
	var box logv1.Sealed
	if err := proto.Unmarshal(data, &box); err != nil {
		return 0
	}
	return box.GetKeyId()
}

// Open opens one sealed entry; whoever opens many keeps an Opener.
func Open(ring *Ring, cluster, history id.ID, data []byte) (*logv1.Entry, error) {
	return NewOpener(ring, cluster, history).Open(data)
}

func entryInfo(cluster id.ID, term, proposer uint64) string {
	b := append([]byte("skep entry v1\x00"), cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, term)
	return string(binary.BigEndian.AppendUint64(b, proposer))
}

func entryAAD(cluster, history id.ID, key uint32, term uint64) []byte {
	b := append([]byte(nil), cluster[:]...)
	b = append(b, history[:]...)
	b = binary.BigEndian.AppendUint32(b, key)
	return binary.BigEndian.AppendUint64(b, term)
}
