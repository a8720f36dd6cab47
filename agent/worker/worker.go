// Package worker turns what a manager assigned to this node into running
// tasks, and remembers it.
//
// It owns the journal, the assigned set and the tasks' runners, and it alone
// removes containers. What a message means is decided by the rules of order
// (R1): it never obeys a smaller index, and another history only when a
// manager has proved it. How messages arrive and reports leave is the
// session's; one task's life is package task's.
//
// Invariants:
//
//   - what is acted on was journaled before, in one commit with the (history,
//     index) it came with;
//   - a container is removed only if it carries our cluster and node and a
//     complete set at an index not below the one that created it does not hold
//     it; and after a change of history nothing is removed for one lease;
//   - an exit is journaled before it is reported (R7);
//   - when Run ends, every container is left as it is.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/task"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Config configures a Worker.
type Config struct {
	// Cluster and Node say whose containers these are. Required.
	Cluster, Node id.ID
	// Hostname is what placeholders in templates see.
	Hostname string
	// Runtime runs the containers. Required.
	Runtime exec.Runtime
	// Journal remembers. The caller closes it after Run. Required.
	Journal *Journal
	// Report is given each new state of a task, and each that no manager has
	// acknowledged when Run begins. It must not block. Required.
	Report func(task id.ID, status *modelv1.TaskStatus)
	// Relist is the period of comparing what runs with what should. Zero
	// means 30s.
	Relist time.Duration
	// Log receives the worker's records. Required.
	Log *slog.Logger
}

// adoptPatience is how long Run waits for the runtime to say what runs before
// it goes on without.
const adoptPatience = 10 * time.Second

// A Worker holds the assigned set. Its methods may be called from any goroutine.
type Worker struct {
	cfg     Config
	journal *Journal

	// obeying is held by the one Obey that is under way.
	obeying chan struct{}
	// wake and sweep ask Run's loops to look again; one pending wake is enough.
	wake  chan struct{}
	sweep chan struct{}

	mu        sync.Mutex // guards the fields below; held for memory only
	history   id.ID
	index     uint64
	hold      time.Time // before it nothing is removed
	session   uint64
	managers  *cav1.ManagerList
	templates map[templateKey]*dispatchv1.Template
	tasks     map[id.ID]*assigned
	runners   map[id.ID]*running
	removing  map[id.ID]bool
}

// assigned is one task of the set.
type assigned struct {
	assignment *dispatchv1.Assignment
	template   *dispatchv1.Template
	status     *modelv1.TaskStatus // nil before anything is known
	acked      bool
}

// unknown reports whether the task is one this node was never told how to run,
// and has no container of: it ended long ago, and the managers know how.
func (a *assigned) unknown() bool {
	return a.template == nil && a.status.GetState() < taskstate.Running &&
		a.assignment.GetDesired() <= taskstate.Complete
}

// running is a task's runner while its goroutine lives.
type running struct {
	runner *task.Runner
	stop   context.CancelFunc
}

// New returns a worker that knows what its journal holds.
func New(cfg Config) (*Worker, error) {
	if cfg.Runtime == nil || cfg.Journal == nil || cfg.Report == nil || cfg.Log == nil {
		return nil, errors.New("worker: runtime, journal, report and log are required")
	}
	if cfg.Relist == 0 {
		cfg.Relist = 30 * time.Second
	}
	w := &Worker{
		cfg: cfg, journal: cfg.Journal,
		obeying: make(chan struct{}, 1), wake: make(chan struct{}, 1), sweep: make(chan struct{}, 1),
		tasks: make(map[id.ID]*assigned), runners: make(map[id.ID]*running), removing: make(map[id.ID]bool),
	}
	c, err := w.journal.load()
	if err != nil {
		return nil, err
	}
	return w, w.restore(c)
}

// restore takes over what the journal holds.
func (w *Worker) restore(c contents) error {
	history, err := id.FromBytes(c.head.GetHistory())
	if err != nil {
		return err
	}
	w.history, w.index, w.hold = history, c.head.GetIndex(), c.hold
	w.session, w.managers, w.templates = c.session, c.managers, c.templates
	for t, a := range c.tasks {
		k, err := keyOf(a.GetService(), a.GetRevision())
		if err != nil {
			return err
		}
		w.tasks[t] = &assigned{
			assignment: a, template: c.templates[k],
			status: c.states[t].GetStatus(), acked: c.states[t].GetAcknowledged(),
		}
	}
	for t := range c.states {
		if w.tasks[t] == nil { // a state that was written while its task was dropped
			w.journal.queue(erase(tableStates, t.Bytes()))
		}
	}
	return nil
}

// Run runs the assigned tasks until ctx ends. It first adopts the containers
// that run already. When it returns, nothing of it is left running but the
// containers.
func (w *Worker) Run(ctx context.Context) error {
	w.adopt(ctx)
	w.reportUnacknowledged()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { w.keepSwept(ctx) })
	for {
		w.sync(ctx, &all)
		select {
		case <-ctx.Done():
			return w.journal.Flush()
		case <-w.wake:
		}
	}
}

// adopt looks for containers of assigned tasks that were started by an earlier
// agent. If the runtime does not answer, each runner finds out by itself.
func (w *Worker) adopt(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, adoptPatience)
	defer stop()
	found, err := w.cfg.Runtime.List(ctx)
	if err != nil {
		w.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the running containers are not known yet", slog.Any("err", err))
		return
	}
	adopted := 0
	for _, c := range found {
		was, ok := w.status(c.Task)
		if !ok {
			continue
		}
		if now := task.Adopt(was, c, time.Now()); now != was {
			w.note(ctx, c.Task, now) // reported with all that is not acknowledged
		}
		if c.Running {
			adopted++
		}
	}
	if adopted > 0 {
		w.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "containers adopted", slog.Int("running", adopted))
	}
}

// sync gives every assigned task that has not ended its runner, tells it what
// is wanted, and lets go of the runners whose task is not assigned any more.
func (w *Worker) sync(ctx context.Context, all *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, r := range w.runners {
		if w.tasks[t] == nil {
			r.stop()
		}
	}
	if ctx.Err() != nil {
		return
	}
	for t, a := range w.tasks {
		switch r := w.runners[t]; {
		case r != nil:
			r.runner.SetDesired(a.assignment.GetDesired())
		case w.removing[t] || taskstate.Terminal(a.status.GetState()) || a.unknown():
		default:
			w.start(ctx, all, t, a)
		}
	}
}

// start gives a task a runner; w.mu is held.
func (w *Worker) start(ctx context.Context, all *sync.WaitGroup, t id.ID, a *assigned) {
	spec := w.spec(t, a)
	ctx, stop := context.WithCancel(ctx)
	r := &running{stop: stop, runner: task.NewRunner(task.Config{
		Name: spec.Name(), Controller: w.cfg.Runtime.Task(spec),
		Desired: a.assignment.GetDesired(), Status: a.status, Log: w.cfg.Log,
		Report: func(ctx context.Context, s *modelv1.TaskStatus) { w.report(ctx, t, s) },
	})}
	w.runners[t] = r
	all.Go(func() {
		defer stop()
		err := r.runner.Run(ctx)
		w.ended(t, r, err)
	})
}

// ended takes note that a runner's goroutine ends. Its container is looked at
// if the runner did not lead it to its end.
func (w *Worker) ended(t id.ID, r *running, err error) {
	w.mu.Lock()
	delete(w.runners, t)
	led := err == nil && w.tasks[t] != nil
	w.mu.Unlock()
	poke(w.wake)
	if !led {
		poke(w.sweep)
	}
}

// spec returns what the runtime needs to know of a task.
func (w *Worker) spec(t id.ID, a *assigned) exec.Spec {
	service, _ := id.FromBytes(a.assignment.GetService()) // checked when it was obeyed
	return exec.Spec{
		Cluster: w.cfg.Cluster, Node: w.cfg.Node, Task: t, Service: service,
		Slot: a.assignment.GetSlot(), Revision: a.assignment.GetRevision(), CreatedIndex: a.assignment.GetCreatedIndex(),
		ServiceName: a.template.GetServiceName(), ServiceLabels: a.template.GetServiceLabels(),
		NodeHostname: w.cfg.Hostname, Template: a.template.GetTemplate(), RegistryAuth: a.template.GetRegistryAuth(),
	}
}

// poke makes a pending wake in a channel of capacity 1; one is enough.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
