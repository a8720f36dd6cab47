package consensus

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/sealed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// ErrNotYet ends a Renew that can be made a little later: a snapshot is being
// written, or the log still grows under an older key.
var ErrNotYet = fmt.Errorf("the log cannot be written anew yet: %w", errdefs.ErrUnavailable)

// renewal is one Renew.
type renewal struct {
	key  uint32
	done chan error // capacity 1
}

// Renew has nothing on this member's disk be sealed under a data key before key,
// which is active: a snapshot of the state as it is now takes the place of all
// there are, and the log is written anew from it on. When it returns nil, no file
// opens with an older key. ErrNotYet: try again. Appends wait while the log
// is exchanged.
func (r *Runner) Renew(ctx context.Context, key uint32) error {
	if lost := r.lost.Load(); lost != nil {
		return *lost
	}
	n := &renewal{key: key, done: make(chan error, 1)}
	r.applies.put(applyWork{renew: n})
	select {
	case err := <-n.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write the log anew: %w: %w", ctx.Err(), ErrNotYet)
	case <-r.stop:
		return fmt.Errorf("write the log anew: this manager stopped: %w", ErrNotYet)
	}
}

// beginRenewal has the snapshot goroutine take a snapshot of what is applied, unless
// it has one of it, and go on from there.
func (r *Runner) beginRenewal(n *renewal) {
	if len(r.snaps) > 0 || r.cfg.Ring.Active() < n.key {
		n.done <- ErrNotYet
		return
	}
	w := snapshotWork{disk: r.disk.Load(), renew: n}
	if at := r.applier.Index(); at > r.due.last {
		w.write, w.manifest = r.cfg.Machine.Encode(), r.applier.Manifest(r.cfg.Cluster, r.cfg.History)
		w.term, w.index, w.conf = r.applier.Term(), at, proto.CloneOf(r.applier.Conf())
		r.due = due{last: at}
	}
	r.snaps <- w
}

// finishRenewal writes the log anew from the newest snapshot.
func (r *Runner) finishRenewal(w snapshotWork, err error) error {
	if err != nil {
		return err
	}
	snap, err := w.disk.storage.Snapshot()
	if err != nil {
		return err
	}
	if err := r.allUnder(w.disk.storage, snap, w.renew.key); err != nil {
		return err
	}
	// Members that need what is older are sent the snapshot.
	if err := w.disk.storage.Compact(snap.GetMetadata().GetIndex()); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return fmt.Errorf("compact the log: %w", err)
	}
	return w.disk.Renew(snap)
}

// allUnder returns ErrNotYet unless the snapshot and all that follows it are sealed
// under key or a later one.
func (r *Runner) allUnder(s *raft.MemoryStorage, snap *raftpb.Snapshot, key uint32) error {
	m, err := ParseManifest(snap)
	if err != nil {
		return err
	}
	if m.GetKeyId() < key {
		return fmt.Errorf("snapshot %d is sealed under data key %d: %w", snap.GetMetadata().GetIndex(), m.GetKeyId(), ErrNotYet)
	}
	last, _ := s.LastIndex() // a storage in memory gives no error
	from := snap.GetMetadata().GetIndex() + 1
	if last < from {
		return nil
	}
	entries, err := s.Entries(from, last+1, 1<<62)
	if err != nil {
		return fmt.Errorf("look through the log: %w", err)
	}
	for _, e := range entries {
		if id, sealed := keyOf(e); sealed && id < key {
			return fmt.Errorf("entry %d is sealed under data key %d: %w", e.GetIndex(), id, ErrNotYet)
		}
	}
	return nil
}

// keyOf returns the number of the data key that an entry is sealed under, if it
// holds anything that is.
func keyOf(e *raftpb.Entry) (id uint32, is bool) {
	data := e.GetData()
	if e.GetType() == raftpb.EntryConfChange {
		cc := &raftpb.ConfChange{}
		if proto.Unmarshal(data, cc) != nil {
			return 0, true
		}
		data = cc.GetContext()
	}
	if len(data) == 0 {
		return 0, false
	}
	return sealed.KeyOf(data), true
}
