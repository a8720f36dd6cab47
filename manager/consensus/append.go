package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
)

// retryLog is how often a log that failed is tried again, and checkDisk how
// often free space is looked at and the high-water mark is raised (R23, R24).
const (
	retryLog  = 5 * time.Second
	checkDisk = time.Second
)

// appendWork is one Append of one era.
type appendWork struct {
	*Append
	era uint64
}

// durable is what is known to be on the disk: the stuff of the mark.
type durableState struct{ term, committed, last, fsyncs, entries atomic.Uint64 }

// append is the goroutine that writes the log: all that waits in one write.
func (r *Runner) append(ctx context.Context) error {
	era := r.disk.Load().era
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.appends.wake:
		}
		work := r.appends.take()
		for len(work) > 0 {
			n := together(work)
			batch := work[:n]
			work = work[n:]
			if batch[0].era != era {
				continue // of a core that is no more
			}
			if err := r.write(batch); err != nil {
				r.fail(ctx, err)
				if err := r.reopen(ctx); err != nil {
					return err
				}
				era++
			}
		}
	}
}

// together returns how many appends one write can carry: up to the next
// snapshot, which must be on the disk before what follows it.
func together(work []appendWork) int {
	n := 1
	for n < len(work) && work[n].Snapshot == nil && work[n].era == work[0].era {
		n++
	}
	return n
}

// write makes appends durable, then stored, then answered, in that order.
func (r *Runner) write(batch []appendWork) error {
	d := r.disk.Load()
	if s := batch[0].Snapshot; s != nil {
		if err := d.Install(s); err != nil {
			return err
		}
		r.durable.last.Store(s.GetMetadata().GetIndex())
	}
	hs, entries := merged(batch)
	begin := time.Now()
	if err := d.Save(hs, entries); err != nil {
		return err
	}
	if len(entries) > 0 {
		r.meters.fsync.Since(begin)
		r.meters.together.Observe(len(entries))
	}
	r.durable.note(hs, entries)
	for _, a := range batch {
		if err := a.Store(d.storage); err != nil {
			return err
		}
		if a.Snapshot != nil {
			// Before the core hears of it: it hands out what follows only then.
			r.applies.put(applyWork{restore: a.Snapshot, era: a.era})
		}
		if len(a.Replies) > 0 {
			r.cfg.Transport.Send(a.Replies)
		}
	}
	r.inbox.put(func(w *work) { w.appended = append(w.appended, batch...) })
	return nil
}

// merged returns the newest hard state and all entries, in order: a later entry
// of the same index takes the place of an earlier one when the log is read.
func merged(work []appendWork) (*raftpb.HardState, []*raftpb.Entry) {
	if len(work) == 1 {
		return work[0].HardState, work[0].Entries
	}
	var hs *raftpb.HardState
	var entries []*raftpb.Entry
	for _, a := range work {
		entries = append(entries, a.Entries...)
		if a.HardState != nil {
			hs = a.HardState
		}
	}
	return hs, entries
}

func (d *durableState) note(hs *raftpb.HardState, entries []*raftpb.Entry) {
	if n := len(entries); n > 0 {
		d.last.Store(entries[n-1].GetIndex())
		d.entries.Add(uint64(n))
		d.fsyncs.Add(1)
	}
	if hs != nil {
		d.term.Store(hs.GetTerm())
		d.committed.Store(hs.GetCommit())
	}
}

// reopen reads the log from the disk again, as often as it takes, and has the
// apply goroutine put a new core on it.
func (r *Runner) reopen(ctx context.Context) error {
	old := r.disk.Load()
	closed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryLog):
		}
		if !closed {
			if free, err := old.Free(); err != nil || free < freeBytes {
				continue
			}
			if err := old.Close(); err != nil {
				r.log.LogAttrs(ctx, slog.LevelWarn, "log cannot be closed yet", slog.Any("err", err))
				continue
			}
			closed = true
		}
		file, st, err := r.cfg.openLog(filepath.Join(r.cfg.Dir, dirName), r.log)
		switch {
		case errors.Is(err, ErrRolledBack):
			return err
		case err != nil:
			r.log.LogAttrs(ctx, slog.LevelWarn, "log cannot be read yet", slog.Any("err", err))
			continue
		}
		r.applies.put(applyWork{reboot: &reboot{file: file, state: st, era: old.era + 1}})
		return nil
	}
}

// watchDisk looks at free space and raises the mark.
func (r *Runner) watchDisk(ctx context.Context) error {
	ticker := time.NewTicker(checkDisk)
	defer ticker.Stop()
	var marked uint64
	var yielded time.Time
	for {
		if r.lost.Load() == nil {
			r.checkSpace(ctx)
			if r.full.Load() && time.Since(yielded) > yieldRest {
				yielded = time.Now()
				r.yield(ctx)
			}
			if at := r.durable.committed.Load(); at != marked {
				if err := r.mark(); err != nil {
					r.log.LogAttrs(ctx, slog.LevelWarn, "high-water mark was not written", slog.Any("err", err))
				} else {
					marked = at
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// yieldRest is for how long a member without space keeps the leadership that it
// could not hand over, or that another handed back: all disks may be full.
const yieldRest = 30 * time.Second

// yield hands leadership over, since another member may have space and this one
// refuses the writes of all.
func (r *Runner) yield(ctx context.Context) {
	st, _ := r.board.get()
	if !st.Leading || len(st.Voters) < 2 {
		return
	}
	r.log.LogAttrs(ctx, slog.LevelWarn, "this manager has too little space to lead and hands leadership over")
	ctx, stop := context.WithTimeout(ctx, leaveTime)
	defer stop()
	if err := r.TransferLeadership(ctx, whyFull); err != nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "leadership was not handed over", slog.Any("err", err))
	}
}

func (r *Runner) mark() error {
	d := &r.durable
	return r.disk.Load().SetMark(&logv1.Mark{
		RaftId: r.cfg.RaftID, Term: d.term.Load(), Committed: min(d.committed.Load(), d.last.Load()), Last: d.last.Load(),
	})
}

// checkSpace refuses proposals while too little is free.
func (r *Runner) checkSpace(ctx context.Context) {
	free, err := r.disk.Load().Free()
	if err != nil {
		return
	}
	r.meters.free.Store(free)
	if low := free < freeBytes; r.full.Swap(low) != low {
		r.log.LogAttrs(ctx, slog.LevelWarn, "free disk space crossed the limit for writes",
			slog.Uint64("free", free), slog.Uint64("limit", freeBytes), slog.Bool("refused", low))
	}
}

// writable says why no transaction is taken in now.
func (r *Runner) writable() error {
	if lost := r.lost.Load(); lost != nil {
		return *lost
	}
	if r.full.Load() {
		return fmt.Errorf("less than %d MiB is free in %s; free some, tasks run on meanwhile: %w", freeBytes>>20, r.cfg.Dir, ErrDiskFull)
	}
	return nil
}
