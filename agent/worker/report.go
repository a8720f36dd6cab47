package worker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	journalv1 "github.com/skep-project/skep/proto/skep/journal/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// report takes a task's new state: to the journal, then on its way.
func (w *Worker) report(ctx context.Context, t id.ID, status *modelv1.TaskStatus) {
	if status, ok := w.note(ctx, t, status); ok {
		w.cfg.Report(t, status)
	}
}

// note joins a new state into what is known of a task and returns what is
// known now; false if the task was dropped meanwhile. An end is durable when
// note returns (R7). If the disk refuses it counts all the same: the runtime
// remembers the exit, and the cluster must not wait for a disk.
func (w *Worker) note(ctx context.Context, t id.ID, status *modelv1.TaskStatus) (*modelv1.TaskStatus, bool) {
	w.mu.Lock()
	a := w.tasks[t]
	if a == nil {
		w.mu.Unlock()
		return nil, false
	}
	status = taskstate.Join(a.status, status)
	a.status, a.acked = status, false
	b := w.queueState(ctx, t, a)
	w.mu.Unlock()
	if taskstate.Terminal(status.GetState()) {
		if err := w.journal.commit(b); err != nil {
			w.cfg.Log.LogAttrs(ctx, slog.LevelError, "the end of a task could not be journaled and is reported nevertheless",
				slog.String("task", t.String()), slog.Any("err", err))
		}
	}
	return status, true
}

// queueState queues the row of a task's state; w.mu is held, so that rows are
// queued in the order of the states.
func (w *Worker) queueState(ctx context.Context, t id.ID, a *assigned) *batch {
	r, err := row(tableStates, t.Bytes(), &journalv1.Task{Status: a.status, Acknowledged: a.acked})
	if err != nil { // a status that cannot be encoded: invalid UTF-8 from a runtime
		w.cfg.Log.LogAttrs(ctx, slog.LevelError, "a state was not journaled", slog.String("task", t.String()), slog.Any("err", err))
		return w.journal.queue()
	}
	return w.journal.queue(r)
}

// Acknowledge takes note that the managers have committed a task's status.
func (w *Worker) Acknowledge(ctx context.Context, t id.ID, status *modelv1.TaskStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[t]
	if a == nil || a.acked || a.status.GetState() != status.GetState() {
		return
	}
	a.acked = true
	w.queueState(ctx, t, a)
}

// unacknowledge forgets every acknowledgement and reports everything again: a
// new history may have begun before they were given.
func (w *Worker) unacknowledge() {
	w.mu.Lock()
	for _, a := range w.tasks {
		a.acked = false
	}
	w.mu.Unlock()
	w.reportUnacknowledged()
}

// reportUnacknowledged reports every state that no manager has committed.
func (w *Worker) reportUnacknowledged() {
	w.mu.Lock()
	due := make(map[id.ID]*modelv1.TaskStatus)
	for t, a := range w.tasks {
		if a.status != nil && !a.acked {
			due[t] = a.status
		}
	}
	w.mu.Unlock()
	for t, status := range due {
		w.cfg.Report(t, status)
	}
}

// status returns what is known of a task, and whether it is assigned.
func (w *Worker) status(t id.ID) (*modelv1.TaskStatus, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[t]
	if a == nil {
		return nil, false
	}
	return a.status, true
}

// Running returns how many tasks run.
func (w *Worker) Running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, a := range w.tasks {
		if a.status.GetState() == taskstate.Running {
			n++
		}
	}
	return n
}

// NextSession draws the counter of a new session: greater than any before it,
// over restarts too (R2). It does not begin at 1 but at the time of day: a node
// whose journal was lost would not be heard otherwise, being an older session of
// itself, until its host is rebooted. Whatever the clock says, the counter of a
// journal never falls.
func (w *Worker) NextSession() (uint64, error) {
	w.mu.Lock()
	next := max(w.session+1, uint64(max(0, time.Now().UnixMilli())))
	r, err := row(tableFacts, factSession, &journalv1.Head{Session: next})
	if err != nil {
		w.mu.Unlock()
		return 0, fmt.Errorf("draw a session: %w", err)
	}
	w.session = next
	b := w.journal.queue(r)
	w.mu.Unlock()
	if err := w.journal.commit(b); err != nil {
		return 0, fmt.Errorf("draw a session: %w", err)
	}
	return next, nil
}

// Managers returns the newest manager list that was kept; nil if there is none.
// It must not be changed.
func (w *Worker) Managers() *cav1.ManagerList {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.managers
}

// KeepManagers journals a manager list and reports whether it took the place
// of the one before. An older list of the same history never does, and one of
// another history only if that is the history this node obeys (R15).
func (w *Worker) KeepManagers(list *cav1.ManagerList) (bool, error) {
	w.mu.Lock()
	if !w.newer(list) {
		w.mu.Unlock()
		return false, nil
	}
	r, err := row(tableFacts, factManagers, &journalv1.Head{Managers: list})
	if err != nil {
		w.mu.Unlock()
		return false, fmt.Errorf("keep the list of managers: %w", err)
	}
	w.managers = proto.CloneOf(list)
	b := w.journal.queue(r)
	w.mu.Unlock()
	if err := w.journal.commit(b); err != nil {
		return true, fmt.Errorf("keep the list of managers: %w", err)
	}
	return true, nil
}

// newer reports whether list may replace the one held; w.mu is held.
func (w *Worker) newer(list *cav1.ManagerList) bool {
	held := w.managers
	switch {
	case len(list.GetManagers()) == 0:
		return false
	case len(held.GetHistory()) == 0: // none, or the founder's own before its first session
		return true
	case string(held.GetHistory()) == string(list.GetHistory()):
		return list.GetIndex() > held.GetIndex()
	default:
		return string(list.GetHistory()) == string(w.history.Bytes())
	}
}
