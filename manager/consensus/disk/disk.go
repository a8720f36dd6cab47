// Package disk keeps a member's log and snapshots.
//
// It owns one directory: etcd's write-ahead log, the newest snapshots with the
// sealed files of their state, and the high-water mark beside them. It is the
// only importer of etcd's wal and snap. It does not seal (consensus does) and
// does not know what entries mean.
//
//	wal/           segments of the write-ahead log, WALMetadata at their head
//	wal.new/       one that Renew is making, or the one it replaced
//	snap/          <term>-<index>.snap: raft's snapshot, its Data a Manifest
//	               <term>-<index>.state: the sealed state the manifest names
//	mark           the high-water mark: a checksum and a Mark (R24)
//
// Invariant: what Save returned nil for is found again by Open, or Open says
// ErrRolledBack. A Log that failed once is not written again (R23).
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/durable"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Format is the only format of a directory that this version knows.
const Format = 1

// ErrRolledBack says that the directory holds less than this member has
// promised to others: it was restored from a copy, or files of it are gone.
var ErrRolledBack = fmt.Errorf("this directory is older than what this manager has promised; it must rejoin: on another manager run \"ctl node demote\" and \"ctl node promote\" for this node, or, if there is no other, \"ctl swarm restore\" a backup: %w", errdefs.ErrFailedPrecondition)

// A Log is an open directory. It is safe for use by many; Save with Install, Release and
// SetMark are each for one goroutine at a time, since their order has a meaning.
type Log struct {
	path  string
	root  *os.Root // the directory
	snaps *os.Root // its snap directory
	wal   *wal.WAL
	snap  *snap.Snapshotter

	// gate is held for reading over each use of wal, and for writing by Renew and
	// Install, which put another in its place: a write that comes meanwhile waits for it.
	gate sync.RWMutex

	// fresh says that a snapshot was saved since the last hard state was.
	fresh atomic.Bool

	// meta is what the log begins with, and hard the newest hard state, which Save and
	// Install write in turn.
	meta []byte
	hard *raftpb.HardState

	pace func(step string) error // a test's; called after each step of Renew and Install

	mu     sync.Mutex // guards failed; never held across I/O
	failed error
}

// broken returns why this log may not be written, or nil.
func (l *Log) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// fail makes err the reason why this log is not written again, and returns it.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
	return l.failed
}

// A State is what a directory held when it was opened.
type State struct {
	Meta      *logv1.WALMetadata
	HardState *raftpb.HardState
	// Snapshot is nil if there is none: a learner that has received nothing.
	Snapshot *raftpb.Snapshot
	// Entries follow the snapshot.
	Entries []*raftpb.Entry
}

// Exists reports whether dir has a log in it.
func Exists(dir string) bool { return wal.Exist(filepath.Join(dir, "wal")) }

// Create makes the directory dir and a log in it, and returns it open. dir must
// not exist, but its parent must.
func Create(dir string, meta *logv1.WALMetadata) (*Log, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create log %s: %w", dir, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "snap"), 0o700); err != nil {
		return nil, fmt.Errorf("create log %s: %w", dir, err)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("create log %s: %w", dir, err)
	}
	w, err := wal.Create(zap.NewNop(), filepath.Join(dir, "wal"), data)
	if err != nil {
		return nil, fmt.Errorf("create log %s: %w", dir, err)
	}
	l, err := open(dir)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	l.wal, l.meta = w, data
	return l, durable.SyncDir(l.root)
}

func open(dir string) (*Log, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	snaps, err := root.OpenRoot("snap")
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, errors.Join(err, root.Close()))
	}
	return &Log{path: dir, root: root, snaps: snaps, snap: snap.New(zap.NewNop(), filepath.Join(dir, "snap"))}, nil
}

// Open opens the log in dir and reads it. A tail that was being written when
// the machine stopped is cut off; anything else that is missing is ErrRolledBack.
func Open(dir string, log *slog.Logger) (*Log, State, error) {
	if !Exists(dir) {
		return nil, State{}, fmt.Errorf("open log %s: no log there: %w", dir, errdefs.ErrNotFound)
	}
	l, err := open(dir)
	if err != nil {
		return nil, State{}, err
	}
	if err := l.sweepRenewal(); err != nil {
		return nil, State{}, errors.Join(fmt.Errorf("open log %s: %w", dir, err), l.Close())
	}
	st, err := l.read(log)
	if err == nil {
		err = l.check(st)
	}
	if err != nil {
		return nil, State{}, errors.Join(fmt.Errorf("open log %s: %w", dir, err), l.Close())
	}
	l.hard = st.HardState
	return l, st, nil
}

// Save makes entries and hard state durable, with one write and one sync. Either
// may be nil. After an error every call fails: reopen the directory.
func (l *Log) Save(hs *raftpb.HardState, entries []*raftpb.Entry) error {
	if hs == nil {
		hs = &raftpb.HardState{}
	}
	l.gate.RLock()
	defer l.gate.RUnlock()
	if err := l.broken(); err != nil {
		return err
	}
	err := l.wal.Save(hs, entries)
	if err == nil && l.fresh.Swap(false) {
		// A snapshot counts only under a commit index that reaches it, and the
		// log does not sync a hard state in which nothing but that has grown.
		err = l.wal.Sync()
	}
	if err != nil {
		return l.fail(fmt.Errorf("write log %s: %w", l.path, err))
	}
	if !raft.IsEmptyHardState(hs) {
		l.hard = hs
	}
	return nil
}

// SaveSnapshot makes a snapshot of this log's own entries durable, whose state file is
// there already.
func (l *Log) SaveSnapshot(s *raftpb.Snapshot) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if err := l.broken(); err != nil {
		return err
	}
	if err := l.saveSnapshot(s); err != nil {
		return l.fail(fmt.Errorf("write snapshot %d of log %s: %w", s.GetMetadata().GetIndex(), l.path, err))
	}
	return nil
}

func (l *Log) saveSnapshot(s *raftpb.Snapshot) error {
	// The file first: a record in the log must find it.
	if err := l.saveSnapshotFile(s); err != nil {
		return err
	}
	if err := l.wal.SaveSnapshot(recordOf(s)); err != nil {
		return err
	}
	l.fresh.Store(true)
	return nil
}

func (l *Log) saveSnapshotFile(s *raftpb.Snapshot) error {
	if err := l.snap.SaveSnap(s); err != nil {
		return err
	}
	m := s.GetMetadata()
	if err := l.snaps.Chmod(fmt.Sprintf("%016x-%016x.snap", m.GetTerm(), m.GetIndex()), 0o600); err != nil {
		return err
	}
	return durable.SyncDir(l.snaps)
}

// recordOf is how the log names a snapshot.
func recordOf(s *raftpb.Snapshot) *walpb.Snapshot {
	m := s.GetMetadata()
	return &walpb.Snapshot{Index: m.Index, Term: m.Term, ConfState: m.GetConfState()}
}

// Free returns the bytes free where the log lies.
func (l *Log) Free() (uint64, error) { return durable.FreeBytes(l.root) }

// Close closes the log. What was saved stays saved, whatever it returns. A log
// that failed may have to be closed again: its directory cannot be opened by
// this process before Close has returned nil.
func (l *Log) Close() error {
	l.gate.Lock()
	defer l.gate.Unlock()
	var err error
	if l.wal != nil && l.broken() != nil {
		if err := l.renewTail(); err != nil {
			return fmt.Errorf("close log %s: %w", l.path, err)
		}
		_ = l.wal.Close() // what it still flushes goes to a file without a name
	} else if l.wal != nil {
		err = l.wal.Close()
	}
	return errors.Join(err, l.snaps.Close(), l.root.Close())
}

// renewTail puts a durable copy of the last segment in its place. After a write
// that failed the file may hold, in the kernel's cache only, what never reached
// the disk; and the old file is still locked by a log that must not flush to it.
func (l *Log) renewTail() error {
	dir, err := l.root.OpenRoot("wal")
	if err != nil {
		return err
	}
	names, err := l.names(dir)
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".wal") })
	if err != nil || len(names) == 0 {
		return errors.Join(err, dir.Close())
	}
	return errors.Join(copyFile(dir, slices.Max(names)), durable.SyncDir(dir), dir.Close())
}

func copyFile(dir *os.Root, name string) error {
	from, err := dir.Open(name)
	if err != nil {
		return err
	}
	to, err := dir.OpenFile(name+".copy", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(err, from.Close())
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Sync(), to.Close(), from.Close()); err != nil {
		return errors.Join(err, dir.Remove(name+".copy"))
	}
	return dir.Rename(name+".copy", name)
}

func (l *Log) walDir() string { return filepath.Join(l.path, "wal") }

// absent reports whether err says that a file is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
