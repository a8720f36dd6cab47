// Package seal closes a backup so that only who holds a key opens it again.
//
// It owns the envelope, which is age's (https://age-encryption.org/v1), so a
// backup can be opened without this program too: with "age --decrypt". It is the
// only importer of that library. A swarm that asks for FIPS 140-3 mode has another
// envelope, of algorithms that are approved for it. It holds no key longer than a file and writes
// nothing itself.
//
// Invariants: a file that was changed or cut off gives an error before its last
// bytes are given out, never a shorter text; no error holds a key or passphrase.
package seal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
)

const (
	// MaxKeys bounds whom one file is sealed to.
	MaxKeys = 64
	// MaxPassphrase bounds a passphrase, in bytes.
	MaxPassphrase = 1024
)

// A Lock is whom a file is sealed to. The zero Lock closes nothing.
type Lock struct {
	to []age.Recipient
	// phrase and rounds are those of ToApprovedPassphrase.
	phrase sealed.Secret
	rounds uint32
}

// ToKeys returns the lock that the owner of any of the recipient keys opens. Each
// text holds keys ("age1…"), one a line; empty lines and lines that begin with #
// say nothing.
func ToKeys(texts ...string) (Lock, error) {
	var l Lock
	for _, text := range texts {
		found, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return Lock{}, rpc.Errorf(errdefs.ErrInvalidArgument, "recipient key: %v", err)
		}
		l.to = append(l.to, found...)
	}
	if len(l.to) == 0 || len(l.to) > MaxKeys {
		return Lock{}, rpc.Errorf(errdefs.ErrInvalidArgument, "%d recipient keys, want 1 to %d", len(l.to), MaxKeys)
	}
	return l, nil
}

// ToPassphrase returns the lock that a passphrase opens. It is stretched with
// scrypt, which takes about a second and 256 MiB.
func ToPassphrase(p sealed.Secret) (Lock, error) { return toPassphrase(p, work) }

// work is the binary logarithm of what scrypt costs: the library's own choice.
const work = 18

func toPassphrase(p sealed.Secret, work int) (Lock, error) {
	if err := goodPassphrase(p); err != nil {
		return Lock{}, err
	}
	r, err := age.NewScryptRecipient(string(p.Reveal()))
	if err != nil {
		return Lock{}, fmt.Errorf("passphrase: %w", err)
	}
	r.SetWorkFactor(work)
	return Lock{to: []age.Recipient{r}}, nil
}

func goodPassphrase(p sealed.Secret) error {
	if p.IsZero() || p.Len() > MaxPassphrase {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "passphrase of %d bytes, want 1 to %d", p.Len(), MaxPassphrase)
	}
	return nil
}

// Close returns a writer whose text goes to w closed. The file is whole only when
// the writer's Close has returned nil.
func (l Lock) Close(w io.Writer) (io.WriteCloser, error) {
	if !l.phrase.IsZero() {
		return l.closeApproved(w)
	}
	out, err := age.Encrypt(w, l.to...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// A Key opens files.
type Key struct {
	with   []age.Identity
	phrase sealed.Secret // zero if it is none
}

// Identities returns the keys in the text of an identity file
// ("AGE-SECRET-KEY-1…", as age-keygen writes it).
func Identities(text []byte) (Key, error) {
	found, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		// The library's words could quote the line.
		return Key{}, rpc.Errorf(errdefs.ErrInvalidArgument, "it holds no age identity (AGE-SECRET-KEY-1…), or one that is not readable")
	}
	return Key{with: found}, nil
}

// Passphrase returns the key that a passphrase is.
func Passphrase(p sealed.Secret) (Key, error) {
	if err := goodPassphrase(p); err != nil {
		return Key{}, err
	}
	i, err := age.NewScryptIdentity(string(p.Reveal()))
	if err != nil {
		return Key{}, fmt.Errorf("passphrase: %w", err)
	}
	return Key{with: []age.Identity{i}, phrase: p}, nil
}

// ErrWrongKey is wrapped by Open's error if the file is whole as far as can be
// told and the key is not its own.
var ErrWrongKey = rpc.Errorf(errdefs.ErrPermissionDenied, "this key does not open the backup")

// ErrBroken is wrapped by errors that say a file is not what was sealed.
var ErrBroken = rpc.Errorf(errdefs.ErrDataLoss, "the seal is broken, the file was changed or cut off")

// Open returns a reader of the text. A file that was changed or cut off gives an
// error at the chunk where it was.
func (k Key) Open(in io.Reader) (io.Reader, error) {
	r := bufio.NewReader(in)
	if isApproved(r) {
		return k.openApproved(r)
	}
	text, err := age.Decrypt(r, k.with...)
	switch {
	case errors.As(err, new(*age.NoIdentityMatchError)):
		return nil, ErrWrongKey
	case err != nil:
		return nil, fmt.Errorf("%w (its head: %w)", ErrBroken, err)
	}
	return opened{text}, nil
}

// opened gives the library's errors their kind.
type opened struct{ r io.Reader }

// Read reads the next of the text.
func (o opened) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrBroken
	}
	return n, err
}

// Needs is what opens a file.
type Needs int

const (
	// NeedsNothing says that it is not sealed, or no file of ours.
	NeedsNothing Needs = iota
	// NeedsIdentity says that it is sealed to the owners of keys.
	NeedsIdentity
	// NeedsPassphrase says that it is sealed to a passphrase.
	NeedsPassphrase
)

// Look says what opens the file that r is at the beginning of, and takes nothing
// from r.
func Look(r *bufio.Reader) Needs {
	if isApproved(r) {
		return NeedsPassphrase
	}
	head, _ := r.Peek(256) // a shorter file is looked at as far as it goes
	rest, ok := bytes.CutPrefix(head, []byte("age-encryption.org/v1\n-> "))
	switch {
	case !ok:
		return NeedsNothing
	case bytes.HasPrefix(rest, []byte("scrypt ")):
		return NeedsPassphrase
	}
	return NeedsIdentity
}
