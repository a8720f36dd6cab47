package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/task"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
)

const (
	// sweepPause is the least time between two looks at the runtime.
	sweepPause = 200 * time.Millisecond
	// sweepAgain is how long after the runtime did not answer it is asked again; each
	// further time is twice as long, up to sweepAtLast: tasks ask by themselves.
	sweepAgain, sweepAtLast = time.Second, 8 * time.Second
	// sweepers is how many containers are stopped or removed at once.
	sweepers = 16
)

// keepSwept compares what the runtime has with what is assigned: when asked,
// and each relist period, for whatever event was missed.
func (w *Worker) keepSwept(ctx context.Context) {
	var acts sync.WaitGroup
	defer acts.Wait()
	room := make(chan struct{}, sweepers)
	patience := sweepAgain
	for {
		again, err := w.sweepOnce(ctx, &acts, room)
		if err == nil {
			patience = sweepAgain
		} else {
			if patience == sweepAgain && ctx.Err() == nil { // said once, until it answers again
				w.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the containers could not be listed; it is tried on", slog.Any("err", err))
			}
			again, patience = min(w.cfg.Relist, patience), min(sweepAtLast, 2*patience)
		}
		if err := w.journal.Flush(); err != nil {
			w.cfg.Log.LogAttrs(ctx, slog.LevelError, "the agent's journal could not be written", slog.Any("err", err))
		}
		if !sleep(ctx, sweepPause) {
			return
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-w.sweep:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// sweepOnce looks once and starts what is to be done; it returns when to look
// again at the latest. An error says that the runtime did not answer.
func (w *Worker) sweepOnce(ctx context.Context, acts *sync.WaitGroup, room chan struct{}) (again time.Duration, err error) {
	found, err := w.cfg.Runtime.List(ctx)
	if err != nil {
		return 0, err
	}
	todo, again := w.planSweep(found, time.Now())
	for _, d := range todo.poke {
		d.Poke()
	}
	for _, c := range todo.act {
		acts.Go(func() { w.clear(ctx, room, c) })
	}
	return again, nil
}

// duty is a container to be stopped, and removed if it is nobody's.
type duty struct {
	exec.Container
	remove bool
}

// sweepPlan is what a look at the runtime asks for.
type sweepPlan struct {
	poke []*task.Runner
	act  []duty
}

// planSweep compares the containers found with the assigned set, and marks
// those it returns as being removed. A container that is nobody's is left
// alone while a runner still holds it, if its task may be newer than the set
// (R1), and until the hold after a change of history is over.
func (w *Worker) planSweep(found []exec.Container, now time.Time) (plan sweepPlan, again time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	again = w.cfg.Relist
	listed := make(map[id.ID]bool, len(found))
	for _, c := range found {
		listed[c.Task] = true
		a, r := w.tasks[c.Task], w.runners[c.Task]
		switch {
		case w.removing[c.Task]:
		case r != nil:
			if r.runner.Waits() && c.Started && !c.Running {
				plan.poke = append(plan.poke, r.runner)
			}
		case a != nil && taskstate.Terminal(a.status.GetState()) && c.Running:
			w.removing[c.Task] = true
			plan.act = append(plan.act, duty{Container: c})
		case a != nil:
		case w.history.IsZero() || c.CreatedIndex > w.index:
		case now.Before(w.hold):
			again = min(again, w.hold.Sub(now))
		default:
			w.removing[c.Task] = true
			plan.act = append(plan.act, duty{Container: c, remove: true})
		}
	}
	for t, r := range w.runners {
		if !listed[t] && r.runner.Waits() {
			plan.poke = append(plan.poke, r.runner)
		}
	}
	return plan, again
}

// clear stops a container, and removes it if it is nobody's. What fails is
// found again by the next look.
func (w *Worker) clear(ctx context.Context, room chan struct{}, d duty) {
	defer w.cleared(d.Task)
	select {
	case room <- struct{}{}:
		defer func() { <-room }()
	case <-ctx.Done():
		return
	}
	c := w.cfg.Runtime.Task(exec.Spec{
		Cluster: w.cfg.Cluster, Node: w.cfg.Node, Task: d.Task, Service: d.Service, CreatedIndex: d.CreatedIndex,
	})
	err := c.Shutdown(ctx)
	if err == nil && d.remove {
		err = c.Remove(ctx)
	}
	if err != nil && ctx.Err() == nil {
		w.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a container that is not needed could not be cleared away; it is tried again",
			slog.String("container", d.ID), slog.String("task", d.Task.String()), slog.Any("err", err))
	}
}

func (w *Worker) cleared(t id.ID) {
	w.mu.Lock()
	delete(w.removing, t)
	back := w.tasks[t] != nil
	w.mu.Unlock()
	if back {
		poke(w.wake)
	}
}

// sleep waits d and reports whether ctx lasted as long.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
