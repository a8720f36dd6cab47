package wallet

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/durable"
)

// Default is the name of no context: the daemon of this host, at its socket.
const Default = "default"

const (
	suffix        = ".json"
	pendingSuffix = ".pending"
	currentFile   = "current"
	lockFile      = "lock"
	// maxName bounds a context's name, so that its file has one.
	maxName = 100
	// lockWait is how long one command waits for another to be done with the
	// directory, and lockPoll how often it looks.
	lockWait = 2 * time.Second
	lockPoll = 10 * time.Millisecond
)

// A Store is the directory of somebody's contexts. It is made when the first
// context is kept; before that it holds none.
type Store struct{ path string }

// Open returns the store that an environment names: skep/contexts in
// XDG_CONFIG_HOME, or else in .config of HOME. It touches nothing.
func Open(getenv func(string) string) *Store {
	base := getenv("XDG_CONFIG_HOME")
	if base == "" && getenv("HOME") != "" {
		base = filepath.Join(getenv("HOME"), ".config")
	}
	if !filepath.IsAbs(base) {
		return &Store{}
	}
	return &Store{path: filepath.Join(base, "skep", "contexts")}
}

// CheckName says what is wrong with what a context is to be called.
func CheckName(name string) error {
	const digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	switch {
	case name == Default:
		return fmt.Errorf("context name %q: it is the name of this host's own daemon", name)
	case name == "" || len(name) > maxName || strings.Trim(name, digits+"._-") != "" || !strings.Contains(digits, name[:1]):
		return fmt.Errorf("context name %q: want 1 to %d letters, digits, dots, dashes and underscores, beginning with a letter or digit",
			name[:min(len(name), maxName)], maxName)
	}
	return nil
}

// open opens the directory; create makes it if it is not there.
func (s *Store) open(create bool) (*os.Root, error) {
	if s.path == "" {
		if create {
			return nil, errors.New("there is no place for contexts: HOME and XDG_CONFIG_HOME are not set")
		}
		return nil, fs.ErrNotExist
	}
	if create {
		if err := os.MkdirAll(s.path, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of contexts: %w", err)
		}
	}
	return os.OpenRoot(s.path)
}

// read does something with the directory; one that is not there is empty.
func (s *Store) read(do func(dir *os.Root) error) error {
	dir, err := s.open(false)
	if err != nil {
		return err
	}
	return errors.Join(do(dir), dir.Close())
}

// write does something with the directory while no other command does.
func (s *Store) write(do func(dir *os.Root) error) error {
	dir, err := s.open(true)
	if err != nil {
		return err
	}
	lock, err := durable.Lock(dir, lockFile)
	for end := time.Now().Add(lockWait); err != nil && time.Now().Before(end); lock, err = durable.Lock(dir, lockFile) {
		time.Sleep(lockPoll)
	}
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	return errors.Join(do(dir), lock.Close(), dir.Close())
}

// List returns the names of all contexts, sorted.
func (s *Store) List() (names []string, err error) {
	err = s.read(func(dir *os.Root) error {
		entries, err := fs.ReadDir(dir.FS(), ".")
		for _, e := range entries {
			if name, ok := strings.CutSuffix(e.Name(), suffix); ok && CheckName(name) == nil {
				names = append(names, name)
			}
		}
		return err
	})
	slices.Sort(names)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// Get returns a context; an error that is fs.ErrNotExist if there is none of the
// name.
func (s *Store) Get(name string) (out *Context, err error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	err = s.read(func(dir *os.Root) error { out, err = get(dir, name); return err })
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	return out, nil
}

func get(dir *os.Root, name string) (*Context, error) {
	data, err := durable.ReadFile(dir, name+suffix)
	if err != nil {
		return nil, err
	}
	return Parse(data)
}

func put(dir *os.Root, name string, c *Context) error {
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	return durable.WriteFile(dir, name+suffix, data)
}

// Add keeps a new context; one of that name must not be there.
func (s *Store) Add(name string, c *Context) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return s.write(func(dir *os.Root) error {
		if _, err := dir.Stat(name + suffix); err == nil {
			return fmt.Errorf("context %s: %w", name, fs.ErrExist)
		}
		return put(dir, name, c)
	})
}

// Learnt keeps what was learnt of the managers: the file's list is replaced by
// c's only if that is newer, whatever other commands have written meanwhile.
func (s *Store) Learnt(name string, c *Context) error {
	return s.write(func(dir *os.Root) error {
		have, err := get(dir, name)
		if err != nil {
			return err
		}
		if have.Credential.Identity != c.Credential.Identity {
			return nil // it was renewed meanwhile
		}
		rotated := have.Credential.Roots.Digest() != c.Credential.Roots.Digest() && later(have.Managers, c.Managers)
		if !rotated && !newer(have.Managers, c.Managers, true) {
			if have.Last == c.Last {
				return nil
			}
			have.Last = c.Last
			return put(dir, name, have)
		}
		return put(dir, name, c)
	})
}

// Replace keeps a renewed context, and forgets the key that was pending for it.
func (s *Store) Replace(name string, c *Context) error {
	return s.write(func(dir *os.Root) error {
		if err := put(dir, name, c); err != nil {
			return err
		}
		return durable.Remove(dir, name+pendingSuffix)
	})
}

// Pending returns the key of a renewal that is under way, and makes and keeps one
// if there is none: whoever asks again with the same key gets the same certificate
// (R17).
func (s *Store) Pending(name string) (key *ecdsa.PrivateKey, err error) {
	err = s.write(func(dir *os.Root) error {
		if data, rerr := durable.ReadFile(dir, name+pendingSuffix); rerr == nil {
			key, err = decodeKey(data)
			return err
		}
		if key, err = ca.NewKey(); err != nil {
			return err
		}
		data, err := encodeKey(key)
		if err != nil {
			return err
		}
		return durable.WriteFile(dir, name+pendingSuffix, data)
	})
	if err != nil {
		return nil, fmt.Errorf("key for context %s: %w", name, err)
	}
	return key, nil
}

// Remove forgets a context.
func (s *Store) Remove(name string) error {
	if _, err := s.Get(name); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.write(func(dir *os.Root) error {
		if now, err := current(dir); err == nil && now == name {
			if err := durable.Remove(dir, currentFile); err != nil {
				return err
			}
		}
		return errors.Join(durable.Remove(dir, name+pendingSuffix), durable.Remove(dir, name+suffix))
	})
}

// Use makes a context the one that commands use if they are told nothing else;
// Default makes it none.
func (s *Store) Use(name string) error {
	if name == Default {
		return s.write(func(dir *os.Root) error { return durable.Remove(dir, currentFile) })
	}
	if _, err := s.Get(name); err != nil {
		return err
	}
	return s.write(func(dir *os.Root) error { return durable.WriteFile(dir, currentFile, []byte(name+"\n")) })
}

// Current returns the name of the context in use; Default if there is none.
func (s *Store) Current() (name string, err error) {
	err = s.read(func(dir *os.Root) error { name, err = current(dir); return err })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Default, nil
	case err != nil:
		return "", fmt.Errorf("context in use: %w", err)
	}
	return name, nil
}

func current(dir *os.Root) (string, error) {
	data, err := durable.ReadFile(dir, currentFile)
	return string(bytes.TrimSpace(data)), err
}
