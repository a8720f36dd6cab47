// Package durable keeps small files whole on disk: after a crash a file holds the
// old bytes or the new ones, and what was reported as written is there.
//
// Every path is inside an os.Root and every file is readable by its owner only.
// Large and growing files (the log, snapshots, the journal) have their own keepers.
//
// Invariant: when a function here returns nil, its effect survives a loss of power.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// suffix marks a file that is being written. One that is found at start was never
// finished and is overwritten by the next write.
const suffix = ".new"

// WriteFile replaces name in dir so that a crash leaves the old bytes or the
// new ones, never a mix. The file is readable by its owner only. Two writers of
// one name must take turns.
func WriteFile(dir *os.Root, name string, data []byte) error {
	tmp := name + suffix
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("replace %s: %w", name, errors.Join(err, dir.Remove(tmp)))
	}
	if err := dir.Rename(tmp, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return SyncDir(dir) // the new name is durable only after this
}

// ReadFile returns the bytes of name. A file that is not there gives an error
// that is fs.ErrNotExist.
func ReadFile(dir *os.Root, name string) ([]byte, error) {
	data, err := dir.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// Remove removes name, durably. A file that is not there is removed already.
func Remove(dir *os.Root, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return SyncDir(dir)
}

// SyncDir makes durable which names dir holds. It is for the directory itself;
// a name in a directory below needs that one's own.
func SyncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir.Name(), err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir.Name(), err)
	}
	return nil
}

// FreeBytes returns how much the daemon may still write to the disk dir is on.
func FreeBytes(dir *os.Root) (uint64, error) {
	d, err := dir.Open(".")
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir.Name(), err)
	}
	var st unix.Statfs_t
	serr := unix.Fstatfs(int(d.Fd()), &st)
	if err := errors.Join(serr, d.Close()); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir.Name(), err)
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // a block size is positive
}

// Lock takes the lock file name in dir for this process until the closer is
// closed or the process ends, however it ends. If another process holds it the
// error says which.
func Lock(dir *os.Root, name string) (io.Closer, error) {
	f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("held by %s, which must stop first", holder(f))
		}
		return nil, errors.Join(fmt.Errorf("lock %s in %s: %w", name, dir.Name(), err), f.Close())
	}
	if err := writePID(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// holder says in words who wrote the lock file.
func holder(f io.Reader) string {
	var pid int
	if _, err := fmt.Fscan(f, &pid); err != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}
