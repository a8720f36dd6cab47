package seal

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// Age's X25519, scrypt and ChaCha20-Poly1305 are not approved for FIPS 140-3. The
// envelope of a swarm that asks for that mode is our own: a head, and a sealed file
// (internal/sealed) under a key that PBKDF2 makes of the passphrase.
const (
	approvedMagic  = "skepseal"
	approvedFormat = 1
	// MinApproved is the least an approved passphrase has, in bytes: 112 bits.
	MinApproved = 14
	// rounds is what PBKDF2 is made to cost: about half a second.
	rounds = 1 << 20
	// maxRounds bounds what a file can make its reader compute.
	maxRounds = 1 << 26

	approvedSalt  = 16
	approvedCheck = 16
	approvedHead  = len(approvedMagic) + 1 + 4 + approvedSalt + approvedCheck
)

var approvedPlace = sealed.Place{Purpose: "backup"}

// ToApprovedPassphrase returns the lock that a passphrase of 14 bytes or more opens,
// by algorithms that are approved for FIPS 140-3: PBKDF2 with HMAC-SHA-256, HKDF and
// AES-256-GCM. Age does not open it.
func ToApprovedPassphrase(p sealed.Secret) (Lock, error) { return toApproved(p, rounds) }

func toApproved(p sealed.Secret, rounds uint32) (Lock, error) {
	if err := goodPassphrase(p); err != nil {
		return Lock{}, err
	}
	if p.Len() < MinApproved {
		return Lock{}, rpc.Errorf(errdefs.ErrInvalidArgument, "passphrase of %d bytes, want %d or more in FIPS 140-3 mode", p.Len(), MinApproved)
	}
	return Lock{phrase: p, rounds: rounds}, nil
}

// An envelope is the head of a file that is sealed by approved algorithms.
type envelope struct {
	rounds      uint32
	salt, check []byte
}

func (e envelope) bytes() []byte {
	b := append([]byte(approvedMagic), approvedFormat)
	b = binary.BigEndian.AppendUint32(b, e.rounds)
	return append(append(b, e.salt...), e.check...)
}

// readEnvelope reads what bytes wrote, as far as the magic says that it did.
func readEnvelope(r io.Reader) (envelope, error) {
	head := make([]byte, approvedHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return envelope{}, ErrBroken
	}
	rest := head[len(approvedMagic):]
	if rest[0] != approvedFormat {
		return envelope{}, rpc.Errorf(errdefs.ErrNotImplemented, "sealed in format %d, this version knows %d: use the version that sealed it", rest[0], approvedFormat)
	}
	e := envelope{rounds: binary.BigEndian.Uint32(rest[1:5]), salt: rest[5 : 5+approvedSalt], check: rest[5+approvedSalt:]}
	if e.rounds == 0 || e.rounds > maxRounds {
		return envelope{}, fmt.Errorf("%w (its head: %d rounds)", ErrBroken, e.rounds)
	}
	return e, nil
}

// key stretches a passphrase. The check tells a wrong one from a broken file, and
// tells nothing to who does not know the key.
func (e envelope) key(p sealed.Secret) (ring *sealed.Ring, check []byte, err error) {
	key, err := pbkdf2.Key(sha256.New, string(p.Reveal()), e.salt, int(e.rounds), sealed.KeyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("passphrase: %w", err)
	}
	if check, err = hkdf.Expand(sha256.New, key, "skep backup check v1", approvedCheck); err != nil {
		return nil, nil, fmt.Errorf("passphrase: %w", err)
	}
	ring, err = sealed.RingFromProto(&logv1.Ring{Active: 1, Keys: []*logv1.RingKey{{Id: 1, Key: key}}})
	return ring, check, err
}

// closeApproved is Close of a lock by ToApprovedPassphrase.
func (l Lock) closeApproved(w io.Writer) (io.WriteCloser, error) {
	e := envelope{rounds: l.rounds, salt: make([]byte, approvedSalt)}
	_, _ = rand.Read(e.salt) // never fails: the runtime ends the process instead
	ring, check, err := e.key(l.phrase)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	e.check = check
	if _, err := w.Write(e.bytes()); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed.NewWriter(w, ring, approvedPlace, rand.Reader)
}

// isApproved reports whether a file begins as those of closeApproved do.
func isApproved(r *bufio.Reader) bool {
	head, _ := r.Peek(len(approvedMagic)) // a shorter file is none
	return bytes.Equal(head, []byte(approvedMagic))
}

// openApproved is Open of such a file.
func (k Key) openApproved(r io.Reader) (io.Reader, error) {
	e, err := readEnvelope(r)
	if err != nil {
		return nil, err
	}
	if k.phrase.IsZero() {
		return nil, ErrWrongKey
	}
	ring, check, err := e.key(k.phrase)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(check, e.check) != 1 {
		return nil, ErrWrongKey
	}
	text, err := sealed.NewReader(r, ring, approvedPlace)
	switch {
	case errors.Is(err, sealed.ErrTampered), errors.Is(err, sealed.ErrUnknownKey):
		return nil, fmt.Errorf("%w (its head: %w)", ErrBroken, err)
	case err != nil:
		return nil, err
	}
	return opened{text}, nil
}
