package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/durable"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// keepSnapshots is how many snapshots stay: the newest, and the one before it
// in case the newest turns out to be unreadable.
const keepSnapshots = 2

const markFile = "mark"

var errUnexpectedEOF = io.ErrUnexpectedEOF

// StateName is the name of the state file of the snapshot at (term, index).
func StateName(term, index uint64) string { return fmt.Sprintf("%016x-%016x.state", term, index) }

// A Summary is what a manifest says of a state file.
type Summary struct {
	Size   uint64
	SHA256 []byte
}

// WriteState makes the state file name from what write writes, whole or not at
// all, and returns its summary.
func (l *Log) WriteState(name string, write func(io.Writer) error) (Summary, error) {
	tmp := name + ".new"
	f, err := l.snaps.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return Summary{}, fmt.Errorf("write state %s: %w", name, err)
	}
	sum := &counter{w: f, sum: sha256.New()}
	err = write(sum)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return Summary{}, fmt.Errorf("write state %s: %w", name, errors.Join(err, l.snaps.Remove(tmp)))
	}
	if err := l.snaps.Rename(tmp, name); err != nil {
		return Summary{}, fmt.Errorf("write state %s: %w", name, err)
	}
	return Summary{Size: sum.n, SHA256: sum.sum.Sum(nil)}, durable.SyncDir(l.snaps)
}

// ReceiveState makes the state file that m names from r. A file of another size
// or hash is refused and leaves nothing behind.
func (l *Log) ReceiveState(m *logv1.Manifest, r io.Reader) error {
	if !stateName(m.GetFile()) {
		return fmt.Errorf("receive state %q: not the name of a state file: %w", m.GetFile(), errdefs.ErrInvalidArgument)
	}
	_, err := l.WriteState(m.GetFile(), func(w io.Writer) error {
		// One byte more than promised shows a file that is too long.
		if _, err := io.Copy(w, io.LimitReader(r, int64(m.GetSize())+1)); err != nil {
			return err
		}
		return w.(*counter).matches(m)
	})
	return err
}

// OpenState opens the state file that m names.
func (l *Log) OpenState(m *logv1.Manifest) (io.ReadCloser, error) {
	if !stateName(m.GetFile()) {
		return nil, fmt.Errorf("open state %q: not the name of a state file: %w", m.GetFile(), errdefs.ErrInvalidArgument)
	}
	f, err := l.snaps.Open(m.GetFile())
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", m.GetFile(), err)
	}
	return f, nil
}

// checkState reports whether the state file of s is there and whole.
func (l *Log) checkState(s *raftpb.Snapshot) error {
	m := &logv1.Manifest{}
	if err := proto.Unmarshal(s.GetData(), m); err != nil {
		return fmt.Errorf("its manifest: %w: %w", err, errdefs.ErrDataLoss)
	}
	f, err := l.OpenState(m)
	if err != nil {
		return err
	}
	sum := &counter{w: io.Discard, sum: sha256.New()}
	_, err = io.Copy(sum, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read state %s: %w", m.GetFile(), err)
	}
	return sum.matches(m)
}

func stateName(name string) bool {
	return len(name) == len(StateName(0, 0)) && strings.HasSuffix(name, ".state") && !strings.ContainsAny(name, "/\\")
}

// counter counts and hashes what it passes on.
type counter struct {
	w   io.Writer
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n uint64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	_, _ = c.sum.Write(p[:n]) // a hash takes everything
	return n, err
}

func (c *counter) matches(m *logv1.Manifest) error {
	if c.n != m.GetSize() || !bytes.Equal(c.sum.Sum(nil), m.GetSha256()) {
		return fmt.Errorf("state %s: %d bytes, not the %d that its manifest promises, or changed: %w", m.GetFile(), c.n, m.GetSize(), errdefs.ErrDataLoss)
	}
	return nil
}

// Release gives up what is not needed any more: snapshots but for the newest and
// old ones before it (at least one), state files without one, and segments of
// the log before the second newest.
func (l *Log) Release(old int) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if err := l.broken(); err != nil {
		return err
	}
	names, err := l.names(l.snaps)
	if err != nil {
		return err
	}
	var snaps []string
	for _, n := range names {
		if base, ok := strings.CutSuffix(n, ".snap"); ok {
			snaps = append(snaps, base)
		}
	}
	slices.Sort(snaps)
	if len(snaps) == 0 {
		return nil
	}
	kept := snaps[max(0, len(snaps)-max(keepSnapshots, 1+old)):]
	newest := kept[len(kept)-1]
	for _, n := range names {
		base := n[:min(len(n), len(newest))]
		if !slices.Contains(kept, base) && base < newest {
			err = errors.Join(err, l.snaps.Remove(n))
		}
	}
	var term, index uint64
	if _, serr := fmt.Sscanf(kept[max(0, len(kept)-keepSnapshots)], "%016x-%016x", &term, &index); serr != nil {
		return errors.Join(err, fmt.Errorf("snapshot %s: %w", newest, serr))
	}
	return errors.Join(err, l.releaseSegments(index))
}

// releaseSegments removes the segments of the log that hold nothing after index.
func (l *Log) releaseSegments(index uint64) error {
	if err := l.wal.ReleaseLockTo(index); err != nil {
		return err
	}
	dir, err := l.root.OpenRoot("wal")
	if err != nil {
		return err
	}
	names, err := l.names(dir)
	slices.Sort(names)
	var before []string // segments that begin at or before index
	for _, n := range names {
		var seq, first uint64
		if _, serr := fmt.Sscanf(n, "%016x-%016x.wal", &seq, &first); serr == nil && strings.HasSuffix(n, ".wal") && first <= index {
			before = append(before, n)
		}
	}
	for i := 0; i < len(before)-1; i++ { // the last of them holds index
		err = errors.Join(err, dir.Remove(before[i]))
	}
	return errors.Join(err, dir.Close())
}

func (l *Log) names(dir *os.Root) ([]string, error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir.Name(), err)
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

// SetMark makes the high-water mark durable.
func (l *Log) SetMark(m *logv1.Mark) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return durable.WriteFile(l.root, markFile, append(binary.BigEndian.AppendUint32([]byte{Format}, sum), data...))
}

// Mark returns the high-water mark, or nil if there is none yet.
func (l *Log) Mark() (*logv1.Mark, error) {
	data, err := durable.ReadFile(l.root, markFile)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data) < 5 || binary.BigEndian.Uint32(data[1:]) != crc32.Checksum(data[5:], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, fmt.Errorf("its mark is corrupt: %w", ErrRolledBack)
	}
	if data[0] != Format {
		return nil, fmt.Errorf("its mark has format %d, this version knows %d; run the version that wrote it: %w", data[0], Format, errdefs.ErrNotImplemented)
	}
	m := &logv1.Mark{}
	if err := proto.Unmarshal(data[5:], m); err != nil {
		return nil, fmt.Errorf("its mark: %w: %w", err, ErrRolledBack)
	}
	return m, nil
}
