package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// read reads from the newest snapshot that is whole.
func (l *Log) read(log *slog.Logger) (State, error) {
	var known []*walpb.Snapshot
	err := decoding(func() (err error) {
		known, err = wal.ValidSnapshotEntries(zap.NewNop(), l.walDir())
		return err
	})
	if err != nil {
		return State{}, corrupt(err)
	}
	for len(known) > 0 {
		s, err := l.snap.LoadNewestAvailable(known)
		if errors.Is(err, snap.ErrNoSnapshot) {
			break
		}
		if err != nil {
			return State{}, err
		}
		if err = l.checkState(s); err == nil {
			return l.readFrom(s)
		}
		log.Warn("snapshot is not whole and is passed over", "index", s.GetMetadata().GetIndex(), "err", err)
		known = without(known, s.GetMetadata())
	}
	return l.readFrom(nil)
}

// readAll reads what follows the snapshot that a log was opened at.
func readAll(w *wal.WAL) (meta []byte, hs *raftpb.HardState, entries []*raftpb.Entry, err error) {
	err = decoding(func() (err error) {
		meta, hs, entries, err = w.ReadAll()
		return err
	})
	return meta, hs, entries, err
}

// decoding makes an error of a panic: etcd's log panics at a record whose bytes are
// whole and are none of its kind.
func decoding(read func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a record is not of its kind: %v", p)
		}
	}()
	return read()
}

func without(known []*walpb.Snapshot, m *raftpb.SnapshotMetadata) []*walpb.Snapshot {
	var out []*walpb.Snapshot
	for _, k := range known {
		if k.GetIndex() != m.GetIndex() || k.GetTerm() != m.GetTerm() {
			out = append(out, k)
		}
	}
	return out
}

func (l *Log) readFrom(s *raftpb.Snapshot) (State, error) {
	at := &walpb.Snapshot{Index: new(s.GetMetadata().GetIndex()), Term: new(s.GetMetadata().GetTerm())}
	for repaired := false; ; repaired = true {
		w, err := wal.Open(zap.NewNop(), l.walDir(), at)
		if err != nil {
			return State{}, fmt.Errorf("at snapshot %d: %w", at.GetIndex(), err)
		}
		data, hs, entries, err := readAll(w)
		if err == nil {
			l.wal, l.meta = w, data
			meta, err := parseMeta(data)
			return State{Meta: meta, HardState: hs, Snapshot: s, Entries: entries}, errors.Join(err, l.forgetRepair())
		}
		err = errors.Join(err, w.Close())
		torn := errors.Is(err, errUnexpectedEOF)
		switch {
		case torn && !repaired && wal.Repair(zap.NewNop(), l.walDir()):
			continue
		default:
			return State{}, fmt.Errorf("at snapshot %d: %w", at.GetIndex(), corrupt(err))
		}
	}
}

// forgetRepair removes what a repair keeps of a segment before it cuts its tail off:
// a copy of full length, and nobody's to look at, as a torn tail is normal.
func (l *Log) forgetRepair() error {
	dir, err := l.root.OpenRoot("wal")
	if err != nil {
		return err
	}
	names, err := l.names(dir)
	for _, n := range names {
		if strings.HasSuffix(n, ".wal.broken") {
			err = errors.Join(err, dir.Remove(n))
		}
	}
	return errors.Join(err, dir.Close())
}

// corrupt adds to an error about what the log holds that this member must
// rejoin. An error of the operating system is left as it is: it may pass.
func corrupt(err error) error {
	var path *fs.PathError
	var number syscall.Errno
	if errors.As(err, &path) || errors.As(err, &number) {
		return err
	}
	return fmt.Errorf("its log is corrupt (%w): %w", err, ErrRolledBack)
}

func parseMeta(data []byte) (*logv1.WALMetadata, error) {
	if len(data) == 0 {
		return nil, corrupt(errors.New("its first record is gone"))
	}
	meta := &logv1.WALMetadata{}
	if err := proto.Unmarshal(data, meta); err != nil {
		return nil, fmt.Errorf("its metadata: %w: %w", err, errdefs.ErrDataLoss)
	}
	if meta.GetFormat() != Format {
		return nil, fmt.Errorf("format %d, this version knows %d; run the version that wrote it: %w", meta.GetFormat(), Format, errdefs.ErrNotImplemented)
	}
	return meta, nil
}

// sound returns an error unless the entries of a state follow each other and are such
// as members write. The kind of a record is not under its checksum: one that was
// another reads as an entry with no sealed data, or leaves a gap.
func sound(st State) error {
	index, term := st.Snapshot.GetMetadata().GetIndex(), st.Snapshot.GetMetadata().GetTerm()
	for _, e := range st.Entries {
		switch {
		case e.GetIndex() != index+1 || e.GetTerm() < term:
			return corrupt(fmt.Errorf("entry %d of term %d follows entry %d of term %d", e.GetIndex(), e.GetTerm(), index, term))
		case e.GetType() != raftpb.EntryNormal && len(e.GetData()) == 0:
			return corrupt(fmt.Errorf("entry %d is of kind %v and empty", e.GetIndex(), e.GetType()))
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	return nil
}

// check holds what was read against what was promised (R24).
func (l *Log) check(st State) error {
	if err := sound(st); err != nil {
		return err
	}
	last := st.Snapshot.GetMetadata().GetIndex()
	if n := len(st.Entries); n > 0 {
		last = st.Entries[n-1].GetIndex()
	}
	if hs := st.HardState; last < hs.GetCommit() {
		return fmt.Errorf("it ends at entry %d, but entry %d was committed: %w", last, hs.GetCommit(), ErrRolledBack)
	}
	mark, err := l.Mark()
	if err != nil || mark == nil {
		return err
	}
	switch {
	case mark.GetRaftId() != st.Meta.GetRaftId():
		return fmt.Errorf("its mark is of member %016x, its log of %016x: %w", mark.GetRaftId(), st.Meta.GetRaftId(), ErrRolledBack)
	case last < mark.GetCommitted():
		return fmt.Errorf("it ends at entry %d, but entry %d was marked committed: %w", last, mark.GetCommitted(), ErrRolledBack)
	case st.HardState.GetTerm() < mark.GetTerm():
		return fmt.Errorf("it is at term %d, but term %d was marked: %w", st.HardState.GetTerm(), mark.GetTerm(), ErrRolledBack)
	default:
		return nil
	}
}
