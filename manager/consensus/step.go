package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// maxLate is how many late ticks are delivered at once (R22).
const maxLate = 3

// step is the goroutine that owns the core. It does no I/O.
func (r *Runner) step(ctx context.Context) error {
	pace := r.cfg.Tick
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	last := time.Now()
	for {
		if now := r.pace(); now != pace {
			pace = now
			ticker.Reset(pace)
		}
		ticked := false
		select {
		case <-ctx.Done():
			return nil
		case <-r.inbox.wake:
		case <-ticker.C:
			now := time.Now()
			r.meters.ticked.Store(now.UnixNano())
			last = r.tick(last, now)
			ticked = true
		}
		r.feed(r.inbox.take(r.core.Full()))
		if r.lost.Load() != nil {
			continue
		}
		out := r.core.Flush(r.cfg.Clock().UnixNano())
		if err := r.core.Failed(); err != nil {
			return err
		}
		r.hand(out)
		if ticked {
			r.shown.ticks++
		}
		if out.Soft || r.shown.ticks >= showPace || r.core.glance() != r.shown.glance {
			r.show(r.core)
		}
	}
}

// pace is how often the core is given its ticks: one at a time; as many as may come at
// once while this member leads a group of itself, for there is nobody whom it could
// miss or who could miss it, and to be woken twenty times a second is a third of what
// such a manager costs.
func (r *Runner) pace() time.Duration {
	if r.core.solitary() {
		return maxLate * r.cfg.Tick
	}
	return r.cfg.Tick
}

// showPace is for how many ticks the board may lag in what nobody waits for: how far
// each member is, and how much was committed.
const showPace = 4

// shown is what the board shows.
type shown struct {
	glance glance
	ticks  int // since it was made
}

// tick gives the core the ticks since last and returns when the newest was due.
func (r *Runner) tick(last, now time.Time) time.Time {
	if r.lost.Load() != nil {
		return now
	}
	late := now.Sub(last)
	if late > contactTime {
		r.core.Slept()
	}
	n := int(late / r.cfg.Tick)
	for range min(n, maxLate) {
		r.core.Tick()
	}
	if n > maxLate {
		return now
	}
	return last.Add(time.Duration(n) * r.cfg.Tick)
}

// feed gives the core what came in. While the log cannot be written nothing is
// stepped: a member without a disk has no vote and no voice.
func (r *Runner) feed(w work) {
	for _, call := range w.calls {
		call(r.core)
	}
	if lost := r.lost.Load(); lost != nil {
		for _, p := range w.proposals {
			p.end(Result{Err: *lost})
		}
		for _, q := range w.reads {
			q.done <- Result{Err: *lost}
		}
		return
	}
	for _, a := range w.appended {
		if a.era == r.era {
			r.core.Appended(a.Append)
		}
	}
	for _, a := range w.applied {
		if a.era == r.era {
			r.core.Applied(a.apply, a.changes)
		}
	}
	for _, m := range w.messages {
		r.core.Step(m)
	}
	for _, p := range w.proposals {
		r.core.Propose(p)
	}
	for _, q := range w.reads {
		r.core.ReadIndex(q)
	}
	for _, q := range w.forget {
		r.core.Forget(q)
	}
}

// hand gives the core's work to those who do it.
func (r *Runner) hand(out Output) {
	for _, a := range out.Append {
		r.appends.put(appendWork{Append: a, era: r.era})
	}
	for _, a := range out.Apply {
		r.applies.put(applyWork{apply: a, era: r.era})
	}
	if out.Snapshot {
		r.applies.put(applyWork{snapshot: true, era: r.era})
	}
	if len(out.Send) > 0 {
		r.cfg.Transport.Send(out.Send)
	}
}

// show puts the core's status on the board.
func (r *Runner) show(c *Core) {
	r.shown.ticks, r.shown.glance = 0, c.glance()
	s := c.Status()
	if lost := r.lost.Load(); lost != nil {
		s.Failed, s.InContact = *lost, false
	}
	if old, _ := r.board.get(); s.Leader != 0 && s.Leader != old.Leader {
		r.meters.leaders.Inc()
	}
	r.board.set(s)
}

// fail takes the member out of its quorum: its log was not written (R23). It
// runs on the append goroutine; the step goroutine does the rest.
func (r *Runner) fail(ctx context.Context, err error) {
	lost := fmt.Errorf("%w: %w; free space or mend the disk, it is tried again every %v", ErrLogFailed, err, retryLog)
	r.log.LogAttrs(ctx, slog.LevelError, "log cannot be written, this manager left the quorum", slog.Any("err", err))
	r.inbox.put(func(w *work) {
		w.calls = append(w.calls, func(c *Core) {
			if c.Transfer(whyFailed) {
				r.cfg.Transport.Send(c.Flush(r.cfg.Clock().UnixNano()).Send)
			}
			r.lost.Store(&lost)
			c.Abandon(lost)
			r.show(c)
		})
	})
}

// resume puts a core in place that stands on a log read anew.
func (r *Runner) resume(core *Core, era uint64) {
	r.inbox.put(func(w *work) {
		w.calls = append(w.calls, func(*Core) {
			r.core, r.era = core, era
			r.lost.Store(nil)
			r.show(core)
		})
	})
}
