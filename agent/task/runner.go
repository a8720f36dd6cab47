package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// exitPatience is how long a runner asks for the exit code of a container it
// has shut down.
const exitPatience = 2 * time.Second

// Config configures a Runner.
type Config struct {
	// Name is how the task is called in the log. Required.
	Name string
	// Controller leads its container. Required.
	Controller exec.Controller
	// Desired is the state the managers want it in.
	Desired State
	// Status is what is known of it; nil if nothing is.
	Status *modelv1.TaskStatus
	// Report is given each new state, in order, before the next act; it may
	// block to make it durable. Required.
	Report func(ctx context.Context, status *modelv1.TaskStatus)
	// Log receives the runner's records. Required.
	Log *slog.Logger
}

// A Runner leads one task. Its methods may be called from any goroutine.
type Runner struct {
	name   string
	ctrl   exec.Controller
	report func(context.Context, *modelv1.TaskStatus)
	log    *slog.Logger

	mu      sync.Mutex // guards the fields below; held for memory only
	desired State
	status  *modelv1.TaskStatus
	action  Action             // what Run does now
	cancel  context.CancelFunc // ends it; nil when nothing is under way
}

// NewRunner returns the runner of one task; Run runs it.
func NewRunner(c Config) *Runner {
	status := c.Status
	if status == nil {
		status = &modelv1.TaskStatus{State: taskstate.Assigned}
	}
	return &Runner{
		name: c.Name, ctrl: c.Controller, report: c.Report, log: c.Log,
		desired: c.Desired, status: status,
	}
}

// SetDesired says what the managers want now. It takes effect at once: an act
// that is not wanted any more is broken off. A desired state never moves back.
func (r *Runner) SetDesired(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desired = max(r.desired, s)
	if r.cancel != nil && Plan(r.desired, r.status.GetState()) != r.action {
		r.cancel()
	}
}

// Poke makes a runner that waits for its container ask the runtime anew: the
// caller has reason to think that the end of it was missed.
func (r *Runner) Poke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil && r.action == Wait {
		r.cancel()
	}
}

// Waits reports whether the runner waits for its container to end.
func (r *Runner) Waits() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancel != nil && r.action == Wait
}

// Run leads the task until it is terminal or ctx ends; the container is not
// touched when ctx ends. A panic on the way is the end of this task only: it
// fails with the words of the panic, which are Run's error. Whether its
// container runs is then not known.
func (r *Runner) Run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("task %s: the agent failed: %v", r.name, p)
			r.panicked(ctx, p)
		}
	}()
	var t trial
	for ctx.Err() == nil {
		action, stepCtx, stop := r.begin(ctx)
		if action == End {
			stop()
			return nil
		}
		if action != t.action {
			t = trial{action: action}
		}
		r.step(ctx, stepCtx, &t)
		r.end(stop)
	}
	return nil
}

// trial counts the tries of one action.
type trial struct {
	action   Action
	failures int // tries that failed for another reason than silence
	silences int // tries the runtime did not answer
}

func (t *trial) count(err error) {
	switch {
	case err == nil:
	case exec.Unavailable(err):
		t.silences++
	default:
		t.failures++
	}
}

// begin chooses the next action and gives it a context that SetDesired ends
// when it is not wanted any more.
func (r *Runner) begin(ctx context.Context) (Action, context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.action, r.cancel = Plan(r.desired, r.status.GetState()), stop
	return r.action, ctx, stop
}

func (r *Runner) end(stop context.CancelFunc) {
	stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel = nil
}

// step does one action and moves the task by its outcome; if there is to be
// another try, it waits until that is due. ctx outlives step, which ends when
// the action is not wanted any more.
func (r *Runner) step(ctx, step context.Context, t *trial) {
	for _, s := range Enter(t.action, r.state()) {
		r.move(ctx, Verdict{State: s})
	}
	o := r.act(step, t.action)
	if o.Err != nil && step.Err() != nil {
		return // broken off: the outcome says nothing
	}
	if t.action == Idle {
		return
	}
	t.count(o.Err)
	v := Settle(t.action, o, t.failures)
	if v.State != 0 {
		r.move(ctx, v)
		return
	}
	wait := Delay(t.failures + t.silences)
	r.log.LogAttrs(ctx, slog.LevelWarn, "a task's step did not succeed and is tried again",
		slog.String("task", r.name), slog.String("step", t.action.String()),
		slog.Int("tries", t.failures+t.silences), slog.Duration("wait", wait), slog.Any("err", o.Err))
	sleep(step, wait/2+rand.N(wait/2+1))
}

// act does the action.
func (r *Runner) act(ctx context.Context, action Action) Outcome {
	switch action {
	case Prepare:
		return Outcome{Err: r.ctrl.Prepare(ctx)}
	case Start:
		return Outcome{Err: r.ctrl.Start(ctx)}
	case Wait:
		exit, err := r.ctrl.Wait(ctx)
		if err != nil {
			return Outcome{Err: err}
		}
		return Outcome{Exit: &exit}
	case Stop:
		if err := r.ctrl.Shutdown(ctx); err != nil && !errors.Is(err, exec.ErrGone) {
			return Outcome{Err: err}
		}
		return r.lastExit(ctx)
	default:
		<-ctx.Done()
		return Outcome{}
	}
}

// lastExit returns how a container that was shut down ended. One that ran, and
// whose end cannot be known any more, was lost before: the host went down under
// it, or somebody else removed it. There is nothing to tell if it was never
// started or the runtime cannot say soon.
func (r *Runner) lastExit(ctx context.Context) Outcome {
	state := r.state()
	if state < taskstate.Starting {
		return Outcome{}
	}
	ctx, stop := context.WithTimeout(ctx, exitPatience)
	defer stop()
	exit, err := r.ctrl.Wait(ctx)
	switch {
	case err == nil:
		return Outcome{Exit: &exit}
	case state >= taskstate.Running && errors.Is(err, exec.ErrGone):
		return Outcome{Lost: err}
	}
	return Outcome{}
}

func (r *Runner) state() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.GetState()
}

// move moves the task forward and reports it.
func (r *Runner) move(ctx context.Context, v Verdict) {
	next := statusOf(v, time.Now())
	r.mu.Lock()
	r.status = advance(r.status, next)
	r.mu.Unlock()
	r.report(ctx, next)
}

// panicked ends the task after a panic of its runner or its controller.
func (r *Runner) panicked(ctx context.Context, p any) {
	r.log.LogAttrs(ctx, slog.LevelError, "a task's runner panicked; the task has failed",
		slog.String("task", r.name), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	r.mu.Lock()
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
	terminal := taskstate.Terminal(r.status.GetState())
	r.mu.Unlock()
	if !terminal {
		r.move(ctx, Verdict{State: taskstate.Failed, Error: fmt.Sprintf("task: the agent failed: %v", p)})
	}
}

// sleep waits d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
