package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

const (
	// KeyBytes is the size of every data key.
	KeyBytes = 32
	// SaltBytes is the size of the random salt a key is derived with.
	SaltBytes = 16
	// overhead is what the AEAD adds: a nonce in front, a tag behind.
	overhead = 12 + 16
)

// ErrUnknownKey says that a box was sealed under a key that is not in the ring.
// Whoever meets it asks a peer for the ring and tries again (R20).
var ErrUnknownKey = fmt.Errorf("sealed under a data key this manager does not have: %w", errdefs.ErrFailedPrecondition)

// ErrTampered says that a box does not open: bytes were changed, moved or mixed.
var ErrTampered = fmt.Errorf("sealed data does not open: it was changed, moved or sealed for another place: %w", errdefs.ErrDataLoss)

// A Ring holds the cluster's data keys by number. One of them is active: new
// data is sealed under it; the others only open. It is safe for use by many.
type Ring struct {
	mu     sync.RWMutex // guards the fields below
	keys   map[uint32]Secret
	active uint32
}

// NewRing returns a ring with one fresh key, number 1.
func NewRing() *Ring {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // never fails: the runtime ends the process when there is no randomness
	return &Ring{keys: map[uint32]Secret{1: {b: key}}, active: 1}
}

// RingFromProto returns the ring that m describes, or what is wrong with it.
func RingFromProto(m *logv1.Ring) (*Ring, error) {
	r := &Ring{keys: make(map[uint32]Secret, len(m.GetKeys())), active: m.GetActive()}
	for _, k := range m.GetKeys() {
		if k.GetId() == 0 || len(k.GetKey()) != KeyBytes {
			return nil, fmt.Errorf("data key %d has %d bytes, want %d and a number above 0: %w", k.GetId(), len(k.GetKey()), KeyBytes, errdefs.ErrInvalidArgument)
		}
		if _, twice := r.keys[k.GetId()]; twice {
			return nil, fmt.Errorf("data key %d stands twice in the ring: %w", k.GetId(), errdefs.ErrInvalidArgument)
		}
		r.keys[k.GetId()] = NewSecret(k.GetKey())
	}
	if _, ok := r.keys[r.active]; !ok {
		return nil, fmt.Errorf("active data key %d is not in the ring: %w", r.active, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// Proto returns the ring as it is handed over and kept; it holds the keys in
// clear, so it is itself sealed or sent over an authenticated connection only.
func (r *Ring) Proto() *logv1.Ring {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m := &logv1.Ring{Active: r.active}
	for id, k := range r.keys {
		m.Keys = append(m.Keys, &logv1.RingKey{Id: id, Key: NewSecret(k.b).b})
	}
	slices.SortFunc(m.Keys, func(a, b *logv1.RingKey) int { return int(a.GetId()) - int(b.GetId()) })
	return m
}

// Active returns the number of the key that new data is sealed under.
func (r *Ring) Active() uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.active
}

// Key returns the key with the given number.
func (r *Ring) Key(id uint32) (Secret, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.keys[id]
	return k, ok
}

// Add puts a key in the ring without making it active. A number in use keeps
// its key: another key under it is refused.
func (r *Ring) Add(id uint32, key Secret) error {
	if id == 0 || key.Len() != KeyBytes {
		return fmt.Errorf("data key %d has %d bytes, want %d and a number above 0: %w", id, key.Len(), KeyBytes, errdefs.ErrInvalidArgument)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.keys[id]; ok && !old.Equal(key) {
		return fmt.Errorf("data key %d is another key already: %w", id, errdefs.ErrAlreadyExists)
	}
	r.keys[id] = key
	return nil
}

// Activate makes a key of the ring the one new data is sealed under.
func (r *Ring) Activate(id uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.keys[id]; !ok {
		return fmt.Errorf("activate data key %d: %w", id, ErrUnknownKey)
	}
	r.active = id
	return nil
}

// Raise makes id the active key if it is greater than the one that is, also if the
// ring does not hold it yet: what a committed entry took out of use is not used
// again, and until the key is added nothing is sealed at all (R20).
func (r *Ring) Raise(id uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = max(r.active, id)
}

// Drop forgets the keys that keep does not want. The active one is always kept.
func (r *Ring) Drop(keep func(id uint32) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.keys {
		if id != r.active && !keep(id) {
			delete(r.keys, id)
		}
	}
}

// Newest returns the greatest number of a key in the ring.
func (r *Ring) Newest() uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	newest := uint32(0)
	for id := range r.keys {
		newest = max(newest, id)
	}
	return newest
}

// derive returns the AEAD of one place. info names the place and is never empty.
func derive(key Secret, salt []byte, info string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key.b, salt, info, KeyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return aead, nil
}
