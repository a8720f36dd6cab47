package keystore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

// ErrLocked says that the key store is sealed under an unlock key that nobody has
// given yet.
var ErrLocked = fmt.Errorf("the node's keys are locked: %w", errdefs.ErrFailedPrecondition)

// ErrWrongUnlockKey says that an unlock key is not the one the store is sealed under.
var ErrWrongUnlockKey = fmt.Errorf("invalid unlock key: %w", errdefs.ErrPermissionDenied)

// lockFormat is the version of a locked kek file. A newer one is not opened.
const lockFormat = 1

// lockFile is the kek file of a store that is locked: the key-encryption key,
// and the one before it while files may still be sealed under that, wrapped under
// the unlock key.
type lockFile struct {
	Format int `json:"format"`
	// Number says which of the cluster's unlock keys opens it.
	Number uint64 `json:"number"`
	// Since is when it was sealed under it.
	Since  time.Time `json:"since"`
	Sealed []byte    `json:"sealed,omitempty"`
	// Clear is the same in clear: a store that is not locked any more remembers
	// which number said so.
	Clear []byte `json:"clear,omitempty"`
}

// lockState is how the key-encryption key lies on the disk.
type lockState struct {
	// number is that of the unlock key, or of the word that there is none.
	number uint64
	since  time.Time
	// unlock is the unlock key, in an open store that has one.
	unlock sealed.Secret
	// closed is the wrapped key-encryption key of a store that was not unlocked.
	closed []byte
}

// Locked reports whether the store waits for its unlock key: until then nothing
// but Who, Number, Unlock and Wipe works.
func (s *Store) Locked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kek.IsZero()
}

// Number is the number of the unlock key the store is sealed under, and since
// when; 0 if the key-encryption key lies in clear.
func (s *Store) Number() (uint64, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock.unlock.IsZero() && s.lock.closed == nil {
		return 0, time.Time{}
	}
	return s.lock.number, s.lock.since
}

// Heard is the greatest number that the store was told by Relock, of an unlock key
// or of the word that there is none; what has a smaller one is of the past.
func (s *Store) Heard() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lock.number
}

// Unlock opens a locked store. What a relock that was cut short left under the
// former key-encryption key is sealed again.
func (s *Store) Unlock(key sealed.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kek.IsZero() {
		return fmt.Errorf("unlock: it is not locked: %w", errdefs.ErrFailedPrecondition)
	}
	keks, err := sealed.Unwrap(key, s.lock.closed, placeLock(s.lock.number))
	if errors.Is(err, sealed.ErrWrongKey) {
		return ErrWrongUnlockKey
	}
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	if err := s.take(keks); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	s.lock.unlock, s.lock.closed = key, nil
	return s.resealFiles()
}

// Relock draws another key-encryption key, seals all that is sealed anew, and
// keeps that key under the unlock key; in clear if that is zero. Number tells
// such changes apart. What the store was locked with before opens
// nothing on the disk from the moment the first file is replaced. also seals what
// lies elsewhere under the store's key: it is given the former one and the new, and
// uses nothing of the store.
//
// A relock that was cut short, by a crash or an error, is finished by the next
// one, or by Open or Unlock, Former and Settle.
func (s *Store) Relock(unlock sealed.Secret, number uint64, also func(former, kek sealed.Secret) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kek.IsZero() {
		return ErrLocked
	}
	if !s.former.IsZero() {
		if err := s.finish(also); err != nil {
			return err
		}
	}
	if s.lock.number == number && s.lock.unlock.Equal(unlock) {
		return nil
	}
	if err := s.renewKEK(unlock, number); err != nil {
		return fmt.Errorf("relock the key store: %w", err)
	}
	return s.finish(also)
}

// LockedWith reports whether the store is sealed under this unlock key, or in
// clear if it is zero, and nothing is left under a former key.
func (s *Store) LockedWith(unlock sealed.Secret, number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.kek.IsZero() && s.former.IsZero() && s.lock.number == number && s.lock.unlock.Equal(unlock)
}

// Former is the key-encryption key that other stores may still be sealed under,
// because a relock was cut short; zero if there is none. When they are sealed
// under KEK, Settle forgets it.
func (s *Store) Former() sealed.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.former
}

// Settle forgets the former key-encryption key.
func (s *Store) Settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settle()
}

func (s *Store) settle() error {
	if s.former.IsZero() {
		return nil
	}
	if err := s.saveKEK(s.kek, sealed.Secret{}, s.lock.unlock, s.lock.number); err != nil {
		return fmt.Errorf("forget the former key-encryption key: %w", err)
	}
	return nil
}

// finish seals under the newest key-encryption key what may be under the former.
func (s *Store) finish(also func(former, kek sealed.Secret) error) error {
	if err := s.resealFiles(); err != nil {
		return err
	}
	if also != nil {
		if err := also(s.former, s.kek); err != nil {
			return fmt.Errorf("relock the key store: %w", err)
		}
	}
	return s.settle()
}

// resealFiles seals the store's own files anew, if some may be under the former
// key.
func (s *Store) resealFiles() error {
	if s.former.IsZero() {
		return nil
	}
	me, err := s.load()
	if err == nil {
		err = s.save(me)
	}
	for name, place := range map[string][]byte{filePending: placePending, fileRequest: placeRequest, fileRing: placeRing} {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = s.resealBlob(name, place)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("seal the node's keys anew: %w", err)
	}
	return nil
}

func (s *Store) resealBlob(name string, place []byte) error {
	blob, err := durable.ReadFile(s.dir, name)
	if err != nil {
		return err
	}
	plain, err := s.open(blob, place)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if blob, err = sealed.Wrap(s.kek, plain, place); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return s.write(s.dir, name, blob)
}

// renewKEK puts another key-encryption key in the place of the one there may be,
// which is remembered until all is sealed anew.
func (s *Store) renewKEK(unlock sealed.Secret, number uint64) error {
	kek := make([]byte, kekBytes)
	_, _ = rand.Read(kek) // never fails: the runtime ends the process instead
	return s.saveKEK(sealed.NewSecret(kek), s.kek, unlock, number)
}

// saveKEK writes the kek file and, once it is durable, remembers what it holds.
func (s *Store) saveKEK(kek, former, unlock sealed.Secret, number uint64) error {
	plain := append(bytes.Clone(kek.Reveal()), former.Reveal()...)
	since := time.Now().UTC()
	if s.lock.number == number {
		since = s.lock.since
	}
	data, err := kekFile(plain, unlock, number, since)
	if err != nil {
		return err
	}
	if err := s.write(s.dir, fileKEK, data); err != nil {
		return err
	}
	s.kek, s.former = kek, former
	s.lock = lockState{number: number, since: since, unlock: unlock}
	return nil
}

// kekFile is what is in the kek file.
func kekFile(plain []byte, unlock sealed.Secret, number uint64, since time.Time) ([]byte, error) {
	f := lockFile{Format: lockFormat, Number: number, Since: since, Clear: plain}
	switch {
	case unlock.IsZero() && number == 0:
		return plain, nil
	case !unlock.IsZero():
		closed, err := sealed.Wrap(unlock, plain, placeLock(number))
		if err != nil {
			return nil, err
		}
		f.Sealed, f.Clear = closed, nil
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", fileKEK, err)
	}
	return data, nil
}

// openKEK reads the kek file: in clear one key-encryption key or two, the former
// behind; else locked.
func (s *Store) openKEK(data []byte) error {
	if len(data) == kekBytes || len(data) == 2*kekBytes {
		return s.take(data)
	}
	var f lockFile
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("%s has %d bytes and is neither a key nor a locked one: restore the file, or empty the directory and join the swarm again: %w",
			fileKEK, len(data), errdefs.ErrDataLoss)
	}
	if f.Format != lockFormat {
		return fmt.Errorf("%s has format %d, this version knows %d: run the version that wrote it: %w", fileKEK, f.Format, lockFormat, errdefs.ErrNotImplemented)
	}
	s.lock = lockState{number: f.Number, since: f.Since, closed: f.Sealed}
	if len(f.Clear) > 0 {
		s.lock.closed = nil
		return s.take(f.Clear)
	}
	if len(f.Sealed) == 0 {
		return fmt.Errorf("%s holds no key: restore the file, or empty the directory and join the swarm again: %w", fileKEK, errdefs.ErrDataLoss)
	}
	// One that was never given its name could hold the key in clear.
	return durable.Remove(s.dir, fileKEK+".new")
}

// take takes in one or two key-encryption keys.
func (s *Store) take(keks []byte) error {
	if len(keks) != kekBytes && len(keks) != 2*kekBytes {
		return fmt.Errorf("%s holds %d bytes: %w", fileKEK, len(keks), errdefs.ErrDataLoss)
	}
	s.kek = sealed.NewSecret(keks[:kekBytes])
	if len(keks) > kekBytes {
		s.former = sealed.NewSecret(keks[kekBytes:])
	}
	return nil
}

// open opens a blob sealed under the key-encryption key or the former one.
func (s *Store) open(blob, place []byte) ([]byte, error) {
	if s.kek.IsZero() {
		return nil, ErrLocked
	}
	plain, err := sealed.Unwrap(s.kek, blob, place)
	if errors.Is(err, sealed.ErrWrongKey) && !s.former.IsZero() {
		plain, err = sealed.Unwrap(s.former, blob, place)
	}
	return plain, err
}

// seal wraps plain under the key-encryption key.
func (s *Store) seal(plain, place []byte) ([]byte, error) {
	if s.kek.IsZero() {
		return nil, ErrLocked
	}
	return sealed.Wrap(s.kek, plain, place)
}

// placeLock is what the locked key-encryption key is bound to.
func placeLock(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("skep locked kek v1"), number)
}

// Who says which node this is, also of a locked store: it needs no key. If it is
// none the error is fs.ErrNotExist.
func (s *Store) Who() (cluster, node id.ID, err error) {
	text, err := durable.ReadFile(s.dir, fileIdentity)
	if err != nil {
		return cluster, node, err
	}
	b, err := readBody(text)
	return b.Cluster, b.Node, err
}
