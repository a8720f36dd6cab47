package consensus

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus/disk"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// applyWork is one of: entries to apply, a snapshot to restore, a log that was
// read anew to put a core on, a snapshot to be taken whether it is due or not, all
// of the disk to be sealed under a newer key.
type applyWork struct {
	apply    *Apply
	restore  *raftpb.Snapshot
	reboot   *reboot
	snapshot bool
	renew    *renewal
	era      uint64
}

type reboot struct {
	file  logFile
	state logState
	era   uint64
}

// due knows when the next snapshot is.
type due struct {
	last  uint64 // index of the last one
	bytes uint64 // of entries since
}

// snapshotWork is a snapshot to be written: the state as it was at one index.
type snapshotWork struct {
	write    func(io.Writer) error
	manifest *logv1.Manifest
	term     uint64
	index    uint64
	conf     *raftpb.ConfState
	disk     *openLog
	renew    *renewal // what is to be done after it, nil if nothing
}

// apply is the goroutine that owns applier and Machine.
func (r *Runner) apply(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.applies.wake:
		}
		for _, w := range r.applies.take() {
			if err := r.applyOne(ctx, w); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}

func (r *Runner) applyOne(ctx context.Context, w applyWork) error {
	switch {
	case w.reboot != nil:
		return r.rebooted(ctx, w.reboot)
	case w.renew != nil:
		r.beginRenewal(w.renew)
		return nil
	case w.restore != nil:
		if err := r.restoreWithKey(ctx, r.disk.Load(), w.restore); err != nil {
			if r.lost.Load() != nil {
				return nil // the log failed meanwhile; it is restored when it is read again
			}
			return err
		}
		r.due = due{last: r.applier.Index()}
		r.applied.raise(r.applier.Index())
		r.log.LogAttrs(ctx, slog.LevelInfo, "snapshot of the leader taken over", slog.Uint64("index", r.applier.Index()))
		return nil
	}
	if w.snapshot {
		r.takeOf(r.applier.Index())
		return nil
	}
	var changes []Accepted
	for _, e := range w.apply.Entries {
		accepted, err := r.applyEntry(ctx, e)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if accepted != nil {
			changes = append(changes, *accepted)
		}
		r.due.bytes += uint64(len(e.GetData()))
	}
	r.applied.raise(r.applier.Index())
	r.inbox.put(func(in *work) {
		in.applied = append(in.applied, appliedWork{apply: w.apply, changes: changes, era: w.era})
	})
	r.snapshotIfDue()
	return nil
}

// applyEntry applies one entry.
func (r *Runner) applyEntry(ctx context.Context, e *raftpb.Entry) (accepted *Accepted, err error) {
	err = r.withKey(ctx, e.GetIndex(), func() error {
		accepted, err = r.applier.Apply(e)
		return err
	})
	if ctx.Err() != nil && errors.Is(err, sealed.ErrUnknownKey) {
		return nil, nil
	}
	return accepted, err
}

// restoreWithKey is restore for a snapshot that may be under a key to come.
func (r *Runner) restoreWithKey(ctx context.Context, file logFile, snap *raftpb.Snapshot) error {
	return r.withKey(ctx, snap.GetMetadata().GetIndex(), func() error { return r.restore(file, snap) })
}

// keyRest is the rest between two tries to get a data key.
const keyRest = time.Second

// withKey does what needs the data keys. Under one that this member does not have
// yet it waits, and asks for it (R20).
func (r *Runner) withKey(ctx context.Context, index uint64, do func() error) error {
	for said := false; ; said = true {
		err := do()
		if !errors.Is(err, sealed.ErrUnknownKey) {
			return err
		}
		if !said {
			r.log.LogAttrs(ctx, slog.LevelInfo, "what is to be applied waits for its data key", slog.Uint64("index", index), slog.Any("err", err))
		}
		if err := r.cfg.MissingKey(ctx); err != nil {
			return err
		}
		if said { // the first time the key may be there at once
			select {
			case <-ctx.Done():
				return err
			case <-time.After(keyRest):
			}
		}
	}
}

// rebooted puts a core on a log that was read anew. The Machine goes on from
// where it is; if the disk knows less than that, this member must rejoin.
func (r *Runner) rebooted(ctx context.Context, b *reboot) error {
	storage := raft.NewMemoryStorage()
	if b.state.Snapshot != nil {
		if err := storage.ApplySnapshot(b.state.Snapshot); err != nil {
			return errors.Join(err, b.file.Close())
		}
	}
	if b.state.Snapshot.GetMetadata().GetIndex() > r.applier.Index() {
		if err := r.restoreWithKey(ctx, b.file, b.state.Snapshot); err != nil {
			return errors.Join(err, b.file.Close())
		}
	}
	core, err := r.boot(&openLog{logFile: b.file, storage: storage, era: b.era}, b.state)
	if err != nil {
		return errors.Join(err, b.file.Close())
	}
	r.log.Info("log can be written again, this manager is back in the quorum")
	r.resume(core, b.era)
	return nil
}

// snapshotIfDue has a snapshot written of the state as it is now, unless one is
// being written.
func (r *Runner) snapshotIfDue() {
	at := r.applier.Index()
	if at-r.due.last < r.cfg.Snapshots().Interval && r.due.bytes < r.cfg.SnapshotBytes {
		return
	}
	r.takeOf(at)
}

// takeOf has a snapshot written of the state at index at, which is now, unless
// one of it is there or one is being written.
func (r *Runner) takeOf(at uint64) {
	if len(r.snaps) > 0 || at <= r.due.last {
		return
	}
	r.snaps <- snapshotWork{
		write: r.cfg.Machine.Encode(), manifest: r.applier.Manifest(r.cfg.Cluster, r.cfg.History),
		term: r.applier.Term(), index: at, conf: proto.CloneOf(r.applier.Conf()), disk: r.disk.Load(),
	}
	r.due = due{last: at}
}

// snapshot is the goroutine that writes snapshots and lets go of old log.
func (r *Runner) snapshot(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-r.snaps:
			begin := time.Now()
			err := error(nil)
			if w.write != nil {
				err = r.takeSnapshot(w)
				r.snapshotEnded(w, time.Since(begin), err)
			}
			if w.renew != nil {
				w.renew.done <- r.finishRenewal(w, err)
			} else if err != nil {
				r.log.LogAttrs(ctx, slog.LevelWarn, "snapshot was not taken, the log grows until the next", slog.Uint64("index", w.index), slog.Any("err", err))
			}
		}
	}
}

func (r *Runner) takeSnapshot(w snapshotWork) error {
	if err := writeState(w.disk, r.cfg.Ring, r.cfg.place(), w.manifest, w.term, w.index, w.write); err != nil {
		return err
	}
	data, err := proto.Marshal(w.manifest)
	if err != nil {
		return fmt.Errorf("encode manifest %d: %w", w.index, err)
	}
	snap, err := w.disk.storage.CreateSnapshot(w.index, w.conf, data)
	if errors.Is(err, raft.ErrSnapOutOfDate) {
		return nil // the leader sent a newer one meanwhile
	}
	if err != nil {
		return fmt.Errorf("create snapshot %d: %w", w.index, err)
	}
	if err := w.disk.SaveSnapshot(snap); err != nil {
		return err
	}
	if to := r.compactTo(w.disk.storage, w.index); to > 0 {
		if err := w.disk.storage.Compact(to); err != nil && !errors.Is(err, raft.ErrCompacted) {
			return fmt.Errorf("compact the log to %d: %w", to, err)
		}
	}
	return w.disk.Release(r.cfg.Snapshots().Old)
}

const (
	// marginBytes bounds the entries kept in memory for slow followers, and
	// heldBytes those kept for one that is being brought up: a follower that
	// needs more is sent another snapshot.
	marginBytes = 16 << 20
	heldBytes   = 64 << 20
)

// compactTo returns the last index to forget: the margin before the snapshot
// stays, in entries and in bytes, and what a follower will ask for next that is
// there and has not got it yet.
func (r *Runner) compactTo(s *raft.MemoryStorage, index uint64) uint64 {
	if index <= r.cfg.margin() {
		return 0
	}
	to, bound := index-r.cfg.margin(), marginBytes
	status, _ := r.board.get()
	for _, p := range status.Progress {
		if next := max(p.Match, p.Pending); p.Active && next < to {
			to, bound = next, heldBytes
		}
	}
	first, err := s.FirstIndex()
	if err != nil {
		return 0
	}
	to = max(to, first-1)
	size := 0
	for at := index; at > to; at-- {
		e, err := s.Entries(at, at+1, 1)
		if err != nil || len(e) == 0 {
			return to
		}
		if size += len(e[0].GetData()); size > bound {
			return at
		}
	}
	return to
}

// writeState writes and seals a state file and completes its manifest.
func writeState(l logFile, ring *sealed.Ring, place sealed.Place, m *logv1.Manifest, term, index uint64, write func(io.Writer) error) error {
	m.File = disk.StateName(term, index)
	sum, err := l.WriteState(m.GetFile(), func(w io.Writer) error {
		box, err := sealed.NewWriter(w, ring, place, rand.Reader)
		if err != nil {
			return err
		}
		m.KeyId, m.Salt = box.Key(), box.Salt()
		buffered := bufio.NewWriterSize(box, sealed.ChunkBytes)
		return errors.Join(write(buffered), buffered.Flush(), box.Close())
	})
	if err != nil {
		return err
	}
	m.Size, m.Sha256 = sum.Size, sum.SHA256
	return nil
}
