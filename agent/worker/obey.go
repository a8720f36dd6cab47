package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	journalv1 "github.com/skep-project/skep/proto/skep/journal/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The reasons for which a message is refused. The session branches on them
// only in so far as it leaves a manager that sent one.
var (
	// ErrBehind says that a manager sent a complete set older than what was
	// already obeyed.
	ErrBehind = errors.New("the manager is behind what this node has already obeyed")
	// ErrHistory says that a manager sent a set of another history without the
	// proof that it is the cluster's.
	ErrHistory = errors.New("the manager speaks for another history of the cluster and has not proved it")
	// ErrMalformed says that a message contradicts itself or what came before.
	ErrMalformed = errors.New("the manager sent a message without sense")
)

// bearing is what an assignment message is to what has been obeyed so far.
type bearing uint8

const (
	obey   bearing = iota // it goes further in the same history
	stale                 // an older increment: what it says is already known
	turnTo                // the first of another history
)

// weigh applies the rules of R1: which message is newer, and may it act.
func weigh(history id.ID, index uint64, a *dispatchv1.Assignments) (bearing, error) {
	theirs, err := id.FromBytes(a.GetHistory())
	switch {
	case err != nil || theirs.IsZero() || a.GetIndex() == 0:
		return stale, fmt.Errorf("%w: assignments without history and index", ErrMalformed)
	case history.IsZero() && !a.GetComplete():
		return stale, fmt.Errorf("%w: an increment before any complete set", ErrMalformed)
	case history.IsZero():
		return obey, nil
	case theirs != history && (!a.GetComplete() || !a.GetConfirmed()):
		return stale, fmt.Errorf("%w: it says %s, this node has obeyed %s", ErrHistory, theirs.Short(), history.Short())
	case theirs != history:
		return turnTo, nil
	case a.GetIndex() < index && a.GetComplete():
		return stale, fmt.Errorf("%w: it sent index %d, obeyed was %d", ErrBehind, a.GetIndex(), index)
	case a.GetIndex() < index:
		return stale, nil
	}
	return obey, nil
}

// change is what a message does to the assigned set.
type change struct {
	history   id.ID
	index     uint64
	hold      time.Time // zero: as it was
	turn      bool      // the history changed
	templates map[templateKey]*dispatchv1.Template
	put       map[id.ID]*assigned
	drop      []id.ID
	forget    []templateKey
}

// Obey makes a message durable and acts on it. lease is the manager's word for
// how long a node counts as alive. A message that was overtaken is nil and no
// act; one that must not be obeyed is an error, and the manager that sent it
// should be left.
func (w *Worker) Obey(ctx context.Context, a *dispatchv1.Assignments, lease time.Duration) error {
	select {
	case w.obeying <- struct{}{}:
		defer func() { <-w.obeying }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil { // both were ready: whose time is over is not obeyed
		return err
	}
	history, index := w.Position()
	b, err := weigh(history, index, a)
	if err != nil {
		return fmt.Errorf("obey assignments: %w", err)
	}
	c, err := w.change(a)
	if err != nil {
		return fmt.Errorf("obey assignments: %w", err)
	}
	if b == stale {
		return w.keepTemplates(c.templates)
	}
	if c.turn = b == turnTo; c.turn {
		c.hold = time.Now().Add(lease)
	}
	writes, err := c.writes(w)
	if err != nil {
		return fmt.Errorf("obey assignments: %w", err)
	}
	if err := w.journal.commit(w.journal.queue(writes...)); err != nil {
		return fmt.Errorf("obey assignments: %w", err)
	}
	w.adoptChange(ctx, c)
	return nil
}

// change reads a message against what is known.
func (w *Worker) change(a *dispatchv1.Assignments) (*change, error) {
	history, err := id.FromBytes(a.GetHistory())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	c := &change{
		history: history, index: a.GetIndex(),
		templates: make(map[templateKey]*dispatchv1.Template, len(a.GetTemplates())),
		put:       make(map[id.ID]*assigned, len(a.GetPut())),
	}
	for _, t := range a.GetTemplates() {
		k, err := keyOf(t.GetService(), t.GetRevision())
		if err != nil {
			return nil, fmt.Errorf("%w: template: %w", ErrMalformed, err)
		}
		c.templates[k] = t
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range a.GetPut() {
		if err := c.addPut(w, p, a.GetComplete()); err != nil {
			return nil, err
		}
	}
	return c, c.addDrops(w, a)
}

// addPut adds one assignment; w.mu is held. Its template may be missing if the
// task is to end, or if a complete set does not hold it: the task has ended
// long ago and its revision is gone. An increment without it belongs to a
// session that has not sent it to this agent: another session will.
func (c *change) addPut(w *Worker, p *dispatchv1.Assignment, complete bool) error {
	t, err := id.FromBytes(p.GetTask())
	if err != nil || t.IsZero() {
		return fmt.Errorf("%w: an assignment without a task", ErrMalformed)
	}
	k, err := keyOf(p.GetService(), p.GetRevision())
	if err != nil {
		return fmt.Errorf("%w: task %s: %w", ErrMalformed, t.Short(), err)
	}
	template := c.templates[k]
	if template == nil {
		template = w.templates[k]
	}
	if template == nil && !complete && p.GetDesired() <= taskstate.Complete {
		return fmt.Errorf("%w: task %s of revision %d, whose template was never sent", ErrMalformed, t.Short(), k.revision)
	}
	c.put[t] = &assigned{assignment: p, template: template}
	return nil
}

// addDrops adds the tasks that are assigned no longer and, with a complete set,
// the templates nothing uses any more; w.mu is held.
func (c *change) addDrops(w *Worker, a *dispatchv1.Assignments) error {
	if !a.GetComplete() {
		for _, b := range a.GetDrop() {
			t, err := id.FromBytes(b)
			if err != nil {
				return fmt.Errorf("%w: drop: %w", ErrMalformed, err)
			}
			c.drop = append(c.drop, t)
		}
		return nil
	}
	used := make(map[templateKey]bool)
	for _, p := range c.put {
		k, _ := keyOf(p.assignment.GetService(), p.assignment.GetRevision()) // checked by addPut
		used[k] = true
	}
	for t := range w.tasks {
		if c.put[t] == nil {
			c.drop = append(c.drop, t)
		}
	}
	for k := range w.templates {
		if !used[k] && c.templates[k] == nil {
			c.forget = append(c.forget, k)
		}
	}
	return nil
}

// writes returns the rows of the change: one commit makes all of it durable.
func (c *change) writes(w *Worker) ([]write, error) {
	var out []write
	var errs []error
	add := func(table, key []byte, m proto.Message) {
		r, err := row(table, key, m)
		out, errs = append(out, r), append(errs, err)
	}
	for k, t := range c.templates {
		add(tableTemplates, k.bytes(), t)
	}
	for t, a := range c.put {
		add(tableTasks, t.Bytes(), &journalv1.Task{Assignment: a.assignment})
	}
	for _, t := range c.drop {
		out = append(out, erase(tableTasks, t.Bytes()), erase(tableStates, t.Bytes()))
	}
	for _, k := range c.forget {
		out = append(out, erase(tableTemplates, k.bytes()))
	}
	if !c.hold.IsZero() {
		until := binary.BigEndian.AppendUint64(nil, uint64(c.hold.UnixNano()))
		out = append(out, write{table: tableFacts, key: factHold, value: until})
	}
	add(tableFacts, factHead, w.journal.head(c.history, c.index))
	return out, errors.Join(errs...)
}

// adoptChange makes a durable change the truth and wakes those who act on it.
func (w *Worker) adoptChange(ctx context.Context, c *change) {
	w.mu.Lock()
	w.history, w.index = c.history, c.index
	if c.turn {
		w.hold = c.hold
	}
	for k, t := range c.templates {
		w.templates[k] = t
	}
	for _, k := range c.forget {
		delete(w.templates, k)
	}
	for t, p := range c.put {
		if was := w.tasks[t]; was != nil {
			p.status, p.acked = was.status, was.acked
		}
		w.tasks[t] = p
	}
	for _, t := range c.drop {
		delete(w.tasks, t)
	}
	w.mu.Unlock()
	if c.turn {
		w.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the cluster has a new history; containers it does not know are kept for one lease",
			slog.String("history", c.history.String()), slog.Uint64("index", c.index))
		w.unacknowledge()
	}
	poke(w.wake)
	if len(c.drop) > 0 || c.turn {
		poke(w.sweep)
	}
}

// keepTemplates keeps the templates of an overtaken message: its session will
// not send them again. They are durable no later than what uses them.
func (w *Worker) keepTemplates(templates map[templateKey]*dispatchv1.Template) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, t := range templates {
		if w.templates[k] != nil {
			continue
		}
		r, err := row(tableTemplates, k.bytes(), t)
		if err != nil {
			return fmt.Errorf("obey assignments: %w", err)
		}
		w.journal.queue(r)
		w.templates[k] = t
	}
	return nil
}

// Position returns the highest (history, index) obeyed; zero before the first.
func (w *Worker) Position() (history id.ID, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.history, w.index
}

// Desired returns what the managers want of a task, and whether it is assigned.
func (w *Worker) Desired(t id.ID) (modelv1.TaskState, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[t]
	if a == nil {
		return 0, false
	}
	return a.assignment.GetDesired(), true
}
