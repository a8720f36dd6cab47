package swarm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/durable"
)

// An output is a file that appears whole or not at all, its owner's only. Until
// keep it has another name, and drop leaves nothing of it.
type output struct {
	*os.File
	dir   *os.Root
	name  string
	force bool
	kept  bool
}

// create begins the file at path. One that is there is replaced only by force.
func create(path string, force bool) (*output, error) {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, say.Misuse("backup file %s: %v", path, err)
	}
	o := &output{dir: dir, name: filepath.Base(path), force: force}
	if err := o.free(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	// The process's own number, so that two backups to one name do not mix.
	temp := fmt.Sprintf(".%s.%d.new", o.name, os.Getpid())
	if o.File, err = dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, errors.Join(say.Misuse("backup file %s: %v", path, err), dir.Close())
	}
	return o, nil
}

// free refuses a name that is taken.
func (o *output) free() error {
	switch _, err := o.dir.Lstat(o.name); {
	case o.force || errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return say.Hinted(say.Misuse("backup file %s is there already", filepath.Join(o.dir.Name(), o.name)), "name another, or replace it with --force")
	default:
		return say.Misuse("backup file: %v", err)
	}
}

// keep makes the file durable under its name.
func (o *output) keep() error {
	if err := o.Sync(); err != nil {
		return fmt.Errorf("backup file %s: %w", o.name, err)
	}
	if err := o.rename(); err != nil {
		return fmt.Errorf("backup file %s: %w", o.name, err)
	}
	o.kept = true
	return durable.SyncDir(o.dir)
}

// rename gives the file its name: in one step with the look whether it is taken,
// where the file system can do that.
func (o *output) rename() error {
	temp := filepath.Base(o.Name())
	if o.force {
		return o.dir.Rename(temp, o.name)
	}
	d, err := o.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	err = unix.Renameat2(int(d.Fd()), temp, int(d.Fd()), o.name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err := o.free(); err != nil {
			return err
		}
		return o.dir.Rename(temp, o.name)
	}
	return err
}

// drop closes the file, and removes it if it was not kept.
func (o *output) drop() {
	temp := filepath.Base(o.Name())
	_ = o.Close() // what counts was synced by keep
	if !o.kept {
		_ = o.dir.Remove(temp) // it is no backup, and nobody will take it for one
	}
	_ = o.dir.Close() // as above
}

// pipe is standard output as an output: it is not whole until ctl has ended well.
type pipe struct{ io.Writer }

func (pipe) keep() error { return nil }
func (pipe) drop()       {}

// sink is where a sealed backup goes.
type sink interface {
	io.Writer
	// keep makes it a backup; drop is called in any case.
	keep() error
	drop()
}

func sinkFor(s *say.Streams, path string, force bool) (sink, error) {
	if path == "-" {
		if isTerminal(s.Out) {
			return nil, say.Hinted(say.Misuse("swarm backup: standard output is a terminal, and a backup is no text"), "name a file, or pipe it on")
		}
		return pipe{s.Out}, nil
	}
	return create(path, force)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
