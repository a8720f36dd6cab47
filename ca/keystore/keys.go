package keystore

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// Pending returns the key of a request that is under way, so that a retry after
// a crash asks for the same (R17), and makes and keeps one if there is none. A key
// that is the identity's by now is not pending any more, even if the daemon died
// before ClearPending.
func (s *Store) Pending() (*ecdsa.PrivateKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, err := s.pending()
	if err != nil || key != nil {
		return key, err
	}
	if key, err = ca.NewKey(); err != nil {
		return nil, fmt.Errorf("pending key: %w", err)
	}
	blob, err := s.sealKey(key, placePending)
	if err != nil {
		return nil, fmt.Errorf("pending key: %w", err)
	}
	if err := s.write(s.dir, filePending, blob); err != nil {
		return nil, fmt.Errorf("pending key: %w", err)
	}
	return key, nil
}

// pending returns the kept key, or nil if there is none.
func (s *Store) pending() (*ecdsa.PrivateKey, error) {
	blob, err := durable.ReadFile(s.dir, filePending)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pending key: %w", err)
	}
	key, err := s.openKey(blob, placePending)
	if err != nil {
		return nil, fmt.Errorf("pending key: %w", err)
	}
	now, err := s.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return key, nil
	case err != nil:
		return nil, fmt.Errorf("pending key: %w", err)
	case now.Key.Equal(key):
		return nil, nil
	}
	return key, nil
}

// ClearPending forgets the pending key, when its certificate is saved or when
// it shall never be.
func (s *Store) ClearPending() error { return durable.Remove(s.dir, filePending) }

// SaveRequest keeps what a node asks to be let in with while it waits, durably: a
// token is in it.
func (s *Store) SaveRequest(request sealed.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := s.seal(request.Reveal(), placeRequest)
	if err != nil {
		return fmt.Errorf("save the request to join: %w", err)
	}
	return s.write(s.dir, fileRequest, blob)
}

// LoadRequest returns what SaveRequest kept; an error that is fs.ErrNotExist if the
// node waits for nothing.
func (s *Store) LoadRequest() (sealed.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := durable.ReadFile(s.dir, fileRequest)
	if err != nil {
		return sealed.Secret{}, fmt.Errorf("load the request to join: %w", err)
	}
	plain, err := s.open(blob, placeRequest)
	if err != nil {
		return sealed.Secret{}, fmt.Errorf("load the request to join: %w", err)
	}
	return sealed.NewSecret(plain), nil
}

// ClearRequest forgets it, when the node is let in or shall never be.
func (s *Store) ClearRequest() error { return durable.Remove(s.dir, fileRequest) }

// SaveRing keeps the data keys, durably.
func (s *Store) SaveRing(ring *logv1.Ring) error {
	plain, err := proto.Marshal(ring)
	if err != nil {
		return fmt.Errorf("save ring: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := s.seal(plain, placeRing)
	if err != nil {
		return fmt.Errorf("save ring: %w", err)
	}
	return s.write(s.dir, fileRing, blob)
}

// LoadRing returns the data keys; an error that is fs.ErrNotExist if this node
// has none, as one that is no manager.
func (s *Store) LoadRing() (*logv1.Ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := durable.ReadFile(s.dir, fileRing)
	if err != nil {
		return nil, fmt.Errorf("load ring: %w", err)
	}
	plain, err := s.open(blob, placeRing)
	if err != nil {
		return nil, fmt.Errorf("load ring: %w", err)
	}
	ring := &logv1.Ring{}
	if err := proto.Unmarshal(plain, ring); err != nil {
		return nil, fmt.Errorf("load ring: %w", errdefs.ErrDataLoss)
	}
	return ring, nil
}

// RemoveRing forgets the data keys, at a demotion (R24).
func (s *Store) RemoveRing() error { return durable.Remove(s.dir, fileRing) }

func (s *Store) sealKey(key *ecdsa.PrivateKey, place []byte) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the private key cannot be encoded")
	}
	return s.seal(plain, place)
}

// openKey undoes sealKey. No error quotes what was inside.
func (s *Store) openKey(blob, place []byte) (*ecdsa.PrivateKey, error) {
	plain, err := s.open(blob, place)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("it is not readable: %w", errdefs.ErrDataLoss)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want ECDSA: %w", parsed, errdefs.ErrDataLoss)
	}
	return key, nil
}
