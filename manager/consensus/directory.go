package consensus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus/disk"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	dirName = "raft"     // the member's directory in Config.Dir
	newName = "raft.new" // one that is being made
	oldName = "raft.old" // what a forced new cluster replaced, until that one runs
)

// Exists reports whether Config.Dir dir holds a member's directory.
func Exists(dir string) bool { return disk.Exists(filepath.Join(dir, dirName)) }

// NewRaftID draws the id of a member: 64 random bits, never 0 and none of those
// that raft keeps for itself.
func NewRaftID() uint64 {
	for {
		if x := random(); x != 0 && x < ^uint64(0)-8 {
			return x
		}
	}
}

// Bootstrap makes the directory of a new cluster's only voter. first, if not
// nil, is applied when it runs. The Machine must be empty and stays so.
func Bootstrap(cfg Config, first *logv1.Transaction) error {
	cfg, err := cfg.named()
	if err != nil {
		return err
	}
	const term, index = 1, 1
	var entries []*raftpb.Entry
	if first != nil {
		data, err := firstEntry(cfg, first, term)
		if err != nil {
			return fmt.Errorf("make the first entry: %w", err)
		}
		entries = []*raftpb.Entry{{Term: new(uint64(term)), Index: new(uint64(index + 1)), Type: raftpb.EntryNormal.Enum(), Data: data}}
	}
	m := &logv1.Manifest{Format: ManifestFormat, Cluster: cfg.Cluster.Bytes(), History: cfg.History.Bytes()}
	hs := &raftpb.HardState{Term: new(uint64(term)), Vote: new(cfg.RaftID), Commit: new(uint64(index + len(entries)))}
	err = create(cfg, func(l *disk.Log) error {
		if err := seed(cfg, l, m, term, index, cfg.Machine.Encode()); err != nil {
			return err
		}
		return l.Save(hs, entries)
	})
	if err != nil {
		return err
	}
	return publish(cfg, false)
}

func firstEntry(cfg Config, first *logv1.Transaction, term uint64) ([]byte, error) {
	tx, err := proto.Marshal(first)
	if err != nil {
		return nil, err
	}
	sealer, err := sealed.NewTermSealer(cfg.Ring, cfg.Cluster, cfg.History, term, cfg.RaftID, rand.Reader)
	if err != nil {
		return nil, err
	}
	return sealer.Seal(&logv1.Entry{Sequence: 1, Clock: time.Now().UnixNano(), Transactions: [][]byte{tx}})
}

// Plant makes the directory of a new cluster's only voter out of a state that
// came from elsewhere: the Machine holds it, txs are applied to it at index,
// which is above its own, and cfg.History is newly drawn. The Machine is used up.
func Plant(cfg Config, index uint64, txs [][]byte) error {
	cfg, err := cfg.named()
	if err != nil {
		return err
	}
	if err := errors.Join(cfg.Machine.Apply(index, time.Now().UnixNano(), txs)...); err != nil {
		return fmt.Errorf("plant a cluster: its first entry: %w", err)
	}
	const term = 1
	m := &logv1.Manifest{Format: ManifestFormat, Cluster: cfg.Cluster.Bytes(), History: cfg.History.Bytes()}
	err = create(cfg, func(l *disk.Log) error {
		if err := seed(cfg, l, m, term, index, cfg.Machine.Encode()); err != nil {
			return err
		}
		return l.Save(&raftpb.HardState{Term: new(uint64(term)), Vote: new(uint64(0)), Commit: new(index)}, nil)
	})
	if err != nil {
		return err
	}
	return publish(cfg, false)
}

// JoinDir makes the directory of a learner that has received nothing yet. Its
// leader finds it once it was added to the group; peers are told with SetPeer.
func JoinDir(cfg Config) error {
	cfg, err := cfg.named()
	if err != nil {
		return err
	}
	if err := create(cfg, func(*disk.Log) error { return nil }); err != nil {
		return err
	}
	return publish(cfg, false)
}

// ForceNew makes a new cluster of what this member holds, whoever else is lost:
// it brings the Machine to the end of the log, uncommitted tail included,
// applies the transactions that edit returns for the next index, and writes a
// directory whose only voter is cfg.RaftID, in cfg.History. Both must be newly
// drawn. The old directory is swapped for it in one step and kept as "raft.old"
// until the new cluster runs. The Machine is given empty and is used up.
func ForceNew(cfg Config, edit func(index uint64) ([][]byte, error)) error {
	cfg, err := cfg.named()
	if err != nil {
		return err
	}
	applier, term, err := replay(cfg)
	if err != nil {
		return fmt.Errorf("force a new cluster: %w", err)
	}
	index := applier.Index() + 1
	txs, err := edit(index)
	if err != nil {
		return fmt.Errorf("force a new cluster: %w", err)
	}
	if err := errors.Join(cfg.Machine.Apply(index, time.Now().UnixNano(), txs)...); err != nil {
		return fmt.Errorf("force a new cluster: its first entry: %w", err)
	}
	m := applier.Manifest(cfg.Cluster, cfg.History)
	term++
	err = create(cfg, func(l *disk.Log) error {
		if err := seed(cfg, l, m, term, index, cfg.Machine.Encode()); err != nil {
			return err
		}
		return l.Save(&raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(index)}, nil)
	})
	if err != nil {
		return err
	}
	return publish(cfg, true)
}

// replay applies all that the present directory holds and returns the applier
// and the highest term seen.
func replay(cfg Config) (*Applier, uint64, error) {
	l, st, err := disk.Open(filepath.Join(cfg.Dir, dirName), cfg.Log)
	if err != nil {
		return nil, 0, err
	}
	old := cfg
	err1, err2 := error(nil), error(nil)
	old.Cluster, err1 = id.FromBytes(st.Meta.GetCluster())
	old.History, err2 = id.FromBytes(st.Meta.GetHistory())
	err = errors.Join(err1, err2,
		check(old.Cluster == cfg.Cluster, "log is of cluster %s, not %s", old.Cluster, cfg.Cluster),
		check(old.History != cfg.History, "history %s is not a new one", cfg.History),
		check(st.Meta.GetRaftId() != cfg.RaftID, "raft id %016x is not a new one", cfg.RaftID),
		check(st.Snapshot != nil, "this manager never received the cluster's state"))
	if err != nil {
		return nil, 0, errors.Join(err, l.Close())
	}
	r := &Runner{cfg: old, applier: NewApplier(cfg.Machine, cfg.Ring, old.Cluster, old.History, &Fates{})}
	err = r.restore(l, st.Snapshot)
	term := st.HardState.GetTerm()
	for _, e := range st.Entries {
		if err == nil {
			_, err = r.applier.Apply(e)
			term = max(term, e.GetTerm())
		}
	}
	return r.applier, term, errors.Join(err, l.Close())
}

// seed writes the snapshot that a directory begins with, whose only voter is
// this member.
func seed(cfg Config, l *disk.Log, m *logv1.Manifest, term, index uint64, write func(io.Writer) error) error {
	if err := writeState(l, cfg.Ring, cfg.place(), m, term, index, write); err != nil {
		return err
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	return l.SaveSnapshot(&raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: new(index), Term: new(term),
		ConfState: &raftpb.ConfState{Voters: []uint64{cfg.RaftID}, AutoLeave: new(false)},
	}})
}

// create makes a directory under the name of one that is being made.
func create(cfg Config, fill func(*disk.Log) error) error {
	dir := filepath.Join(cfg.Dir, newName)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	l, err := disk.Create(dir, &logv1.WALMetadata{
		Format: disk.Format, Cluster: cfg.Cluster.Bytes(), History: cfg.History.Bytes(), Node: cfg.Node.Bytes(), RaftId: cfg.RaftID,
	})
	if err != nil {
		return err
	}
	return errors.Join(fill(l), l.Close())
}

// publish gives the directory its name. If another has it, the two are swapped
// in one step, or, unless swap is set, it is refused.
func publish(cfg Config, swap bool) error {
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	path := func(name string) string { return filepath.Join(cfg.Dir, name) }
	switch _, err = root.Lstat(dirName); {
	case err == nil && !swap:
		err = fmt.Errorf("create log: %s is there already; leave the cluster first: %w", path(dirName), errdefs.ErrAlreadyExists)
	case err == nil:
		if err = os.RemoveAll(path(oldName)); err == nil {
			err = unix.Renameat2(unix.AT_FDCWD, path(newName), unix.AT_FDCWD, path(dirName), unix.RENAME_EXCHANGE)
		}
		if err == nil {
			err = root.Rename(newName, oldName)
		}
	default:
		err = root.Rename(newName, dirName)
	}
	return errors.Join(err, durable.SyncDir(root), root.Close())
}

// Wipe deletes a member's directory with log, snapshots and everything kept:
// a demoted manager keeps nothing (R24).
func Wipe(dir string) error {
	var err error
	for _, name := range []string{dirName, newName, oldName} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}
