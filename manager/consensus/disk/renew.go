package disk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/skep-project/skep/internal/durable"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// walName is the directory of the write-ahead log and newWAL that of one that is
// being made in its place. wal.Create makes its own under a name of its own first.
const (
	walName  = "wal"
	newWAL   = "wal.new"
	newWALof = newWAL + ".tmp"
)

// Renew writes the log anew from snapshot s on, which must be the newest one saved,
// and removes everything older: entries before it, what was overwritten since, and
// all other snapshots. What was saved stays saved. A crash at any moment leaves the
// old log or the new one; what is left beside it the next Open removes. Calls of
// Save wait meanwhile.
//
// An error before the new log is in place leaves all as it was; after one that
// came later the Log has failed.
func (l *Log) Renew(s *raftpb.Snapshot) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	if err := l.broken(); err != nil {
		return err
	}
	at := recordOf(s)
	if err := l.rebuildWAL(at); err != nil {
		return fmt.Errorf("renew log %s from snapshot %d: %w", l.path, at.GetIndex(), err)
	}
	if err := l.exchangeWAL(at); err != nil {
		return l.fail(fmt.Errorf("renew log %s from snapshot %d: %w", l.path, at.GetIndex(), err))
	}
	if err := errors.Join(l.sweepRenewal(), l.paced("swept")); err != nil {
		return err
	}
	return l.removeSnapshotsBut(at)
}

// Install makes a snapshot that another member has sent the beginning of the log, and of
// all that the log held only the hard state stays: entries behind the snapshot's index
// are of a past that did not come true, and the next Open would read them as what follows
// it. The state file is there already. A crash at any moment leaves the log as it was, or
// with the snapshot and nothing else. After an error every call fails.
func (l *Log) Install(s *raftpb.Snapshot) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	if err := l.broken(); err != nil {
		return err
	}
	at := recordOf(s)
	err := errors.Join(l.sweepRenewal(), l.saveSnapshotFile(s), l.paced("saved"))
	if err == nil {
		err = l.buildWAL(at, l.meta, l.hard, nil)
	}
	if err == nil {
		err = l.exchangeWAL(at)
	}
	if err == nil {
		l.hard = reaching(l.hard, at)
		l.fresh.Store(false)
		err = errors.Join(l.sweepRenewal(), l.paced("swept"))
	}
	if err != nil {
		return l.fail(fmt.Errorf("begin log %s anew at snapshot %d: %w", l.path, at.GetIndex(), err))
	}
	return nil
}

// rebuildWAL makes wal.new of what the log holds from at on. The gate is held.
func (l *Log) rebuildWAL(at *walpb.Snapshot) error {
	if err := errors.Join(l.sweepRenewal(), l.wal.Sync()); err != nil {
		return err
	}
	old, err := wal.OpenForRead(zap.NewNop(), l.walDir(), at)
	if err != nil {
		return err
	}
	meta, hs, entries, err := readAll(old)
	_ = old.Close() // reading has closed what there was; one that is read only has no more
	if err != nil {
		return err
	}
	return l.buildWAL(at, meta, hs, entries)
}

// buildWAL makes wal.new, which begins at at. The gate is held.
func (l *Log) buildWAL(at *walpb.Snapshot, meta []byte, hs *raftpb.HardState, entries []*raftpb.Entry) error {
	next, err := wal.Create(zap.NewNop(), filepath.Join(l.path, newWAL), meta)
	if err != nil {
		return err
	}
	err = errors.Join(l.paced("created"), next.SaveSnapshot(at), next.Save(reaching(hs, at), entries), next.Sync(), next.Close())
	return errors.Join(err, durable.SyncDir(l.root), l.paced("built"))
}

// reaching returns a hard state that reaches the snapshot: one that does may still
// be on its way to the log, and a snapshot is of what is committed.
func reaching(hs *raftpb.HardState, at *walpb.Snapshot) *raftpb.HardState {
	if hs.GetCommit() >= at.GetIndex() && hs.GetTerm() >= at.GetTerm() {
		return hs
	}
	out := &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(max(hs.GetCommit(), at.GetIndex()))}
	if at.GetTerm() > hs.GetTerm() {
		out.Term, out.Vote = new(at.GetTerm()), new(uint64(0))
	}
	return out
}

// paced tells a test that a step is done.
func (l *Log) paced(step string) error {
	if l.pace == nil {
		return nil
	}
	return l.pace(step)
}

// exchangeWAL puts wal.new in the place of the log in one step, and opens it.
func (l *Log) exchangeWAL(at *walpb.Snapshot) error {
	old := l.wal
	l.wal = nil
	if err := errors.Join(old.Close(), l.paced("closed")); err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(l.path, name) }
	if err := unix.Renameat2(unix.AT_FDCWD, path(newWAL), unix.AT_FDCWD, path(walName), unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if err := errors.Join(durable.SyncDir(l.root), l.paced("exchanged")); err != nil {
		return err
	}
	w, err := wal.Open(zap.NewNop(), l.walDir(), at)
	if err != nil {
		return err
	}
	if _, _, _, err := w.ReadAll(); err != nil { // a log is appended to once it was read
		return errors.Join(err, w.Close())
	}
	l.wal = w
	return nil
}

// sweepRenewal removes what a renewal replaced, or left when it was cut short.
func (l *Log) sweepRenewal() error {
	var err error
	found := false
	for _, name := range []string{newWAL, newWALof} {
		if _, serr := l.root.Lstat(name); serr == nil {
			found, err = true, errors.Join(err, l.root.RemoveAll(name))
		}
	}
	if err == nil && found {
		err = durable.SyncDir(l.root)
	}
	return err
}

// removeSnapshotsBut removes all snapshots and state files but those of at.
func (l *Log) removeSnapshotsBut(at *walpb.Snapshot) error {
	names, err := l.names(l.snaps)
	if err != nil {
		return err
	}
	keep := strings.TrimSuffix(StateName(at.GetTerm(), at.GetIndex()), ".state")
	for _, n := range names {
		if !strings.HasPrefix(n, keep) {
			err = errors.Join(err, l.snaps.Remove(n))
		}
	}
	return errors.Join(err, durable.SyncDir(l.snaps))
}
