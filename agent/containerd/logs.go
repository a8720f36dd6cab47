package containerd

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// boundLogs cuts every task's log that has outgrown its bound. The shim appends
// to the file it has open, so the file is copied and truncated, not renamed;
// what is printed between the two steps is lost.
func (r *Runtime) boundLogs() error {
	dir := filepath.Join(r.cfg.StateDir, "tasks")
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range tasks {
		err := boundLog(filepath.Join(dir, t.Name(), "log"), r.cfg.LogBytes)
		if !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// boundLog moves the newest bytes of a log that is longer than limit to
// "<path>.1" and empties it.
func boundLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= limit {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer old.Close()
	if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
		return err
	}
	if _, err := io.CopyN(old, f, limit); err != nil {
		return err
	}
	return f.Truncate(0)
}
