package task

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		desired, observed State
		want              Action
	}{
		{taskstate.Running, taskstate.Assigned, Prepare},
		{taskstate.Running, taskstate.Preparing, Prepare},
		{taskstate.Running, taskstate.Ready, Start},
		{taskstate.Running, taskstate.Starting, Start},
		{taskstate.Running, taskstate.Running, Wait},
		{taskstate.Complete, taskstate.Running, Wait},
		{taskstate.Ready, taskstate.Assigned, Prepare},
		{taskstate.Ready, taskstate.Ready, Idle},
		{taskstate.Shutdown, taskstate.Assigned, Stop},
		{taskstate.Shutdown, taskstate.Running, Stop},
		{taskstate.Remove, taskstate.Running, Stop},
		{taskstate.Running, taskstate.Failed, End},
		{taskstate.Shutdown, taskstate.Complete, End},
	} {
		if got := Plan(tt.desired, tt.observed); got != tt.want {
			t.Errorf("wanted %s, is %s: %s, want %s", taskstate.Name(tt.desired), taskstate.Name(tt.observed), got, tt.want)
		}
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	noImage := exec.Rejected(errors.New("no such image: x"))
	odd := errors.New("odd")
	for _, tt := range []struct {
		name     string
		action   Action
		outcome  Outcome
		failures int
		want     Verdict
	}{
		{"prepared", Prepare, Outcome{}, 0, Verdict{State: taskstate.Ready}},
		{"a rejection is final", Prepare, Outcome{Err: noImage}, 1, Verdict{State: taskstate.Rejected, Error: "no such image: x"}},
		{"what may pass is tried again", Prepare, Outcome{Err: odd}, 1, Verdict{}},
		{"but not for ever", Prepare, Outcome{Err: odd}, maxTries, Verdict{State: taskstate.Rejected, Error: "odd"}},
		{"silence is waited out", Prepare, Outcome{Err: exec.ErrUnavailable}, 1000, Verdict{}},
		{"started", Start, Outcome{}, 0, Verdict{State: taskstate.Running}},
		{"a start that keeps failing fails", Start, Outcome{Err: odd}, maxTries, Verdict{State: taskstate.Failed, Error: "odd"}},
		{"exit 0 completes", Wait, Outcome{Exit: &exec.Exit{}}, 0, Verdict{State: taskstate.Complete, Exit: &exec.Exit{}}},
		{"another exit fails", Wait, Outcome{Exit: &exec.Exit{Code: 3}}, 0,
			Verdict{State: taskstate.Failed, Error: "task: non-zero exit (3)", Exit: &exec.Exit{Code: 3}}},
		{"memory is named", Wait, Outcome{Exit: &exec.Exit{Code: 137, OOM: true}}, 0,
			Verdict{State: taskstate.Failed, Error: "task: non-zero exit (137): out of memory", Exit: &exec.Exit{Code: 137, OOM: true}}},
		{"a container that is gone has failed", Wait, Outcome{Err: exec.ErrGone}, 1,
			Verdict{State: taskstate.Failed, Error: "task: container was lost: the container is gone"}},
		{"an error is not an exit", Wait, Outcome{Err: odd}, 1000, Verdict{}},
		{"stopped", Stop, Outcome{}, 0, Verdict{State: taskstate.Shutdown}},
		{"one that was lost before it was stopped has failed", Stop, Outcome{Lost: exec.ErrGone}, 0,
			Verdict{State: taskstate.Failed, Error: "task: container was lost: the container is gone"}},
		{"a stop that fails is tried again", Stop, Outcome{Err: odd}, 1000, Verdict{}},
	} {
		got := Settle(tt.action, tt.outcome, tt.failures)
		if got.State != tt.want.State || got.Error != tt.want.Error || (got.Exit == nil) != (tt.want.Exit == nil) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

var (
	desires  = []State{taskstate.Ready, taskstate.Running, taskstate.Shutdown, taskstate.Remove}
	outcomes = []Outcome{
		{}, {Exit: &exec.Exit{}}, {Exit: &exec.Exit{Code: 1}}, {Err: exec.ErrGone},
		{Err: exec.ErrUnavailable}, {Err: exec.Rejected(errors.New("no"))}, {Err: errors.New("odd")},
	}
)

// Whatever is wanted and whatever happens, a task moves forward only, does not
// move once terminal, is not started unless it is to run, and not ended by a
// runtime that does not answer.
func TestATaskOnlyMovesForward(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		status, desired, failures := &modelv1.TaskStatus{State: taskstate.Assigned}, taskstate.Ready, 0
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			desired = max(desired, rapid.SampledFrom(desires).Draw(t, fmt.Sprint("desired", i)))
			was := status.GetState()
			action := Plan(desired, was)
			if taskstate.Terminal(was) != (action == End) {
				t.Fatalf("%s: %s", taskstate.Name(was), action)
			}
			if action == Start && (desired <= taskstate.Ready || desired > taskstate.Complete) {
				t.Fatalf("started while %s is wanted", taskstate.Name(desired))
			}
			for _, s := range Enter(action, was) {
				status = advance(status, statusOf(Verdict{State: s}, time.Unix(1, 0)))
			}
			if action == End || action == Idle {
				continue
			}
			o := rapid.SampledFrom(outcomes).Draw(t, fmt.Sprint("outcome", i))
			failures++
			v := Settle(action, o, failures)
			if exec.Unavailable(o.Err) && v.State != 0 {
				t.Fatalf("%s ended in %s because the runtime was silent", action, taskstate.Name(v.State))
			}
			if v.State != 0 {
				status = advance(status, statusOf(v, time.Unix(1, 0))) // panics if it moves back
			}
		}
	})
}

func TestDelayGrowsAndIsBounded(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for tries := 1; tries < 100; tries++ {
		got = append(got, Delay(tries))
	}
	if got[0] != 100*time.Millisecond || got[98] != 10*time.Second || !slices.IsSorted(got) {
		t.Errorf("delays %v, want them to grow from 100ms to 10s", got)
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	now := time.Unix(100, 0)
	preparing := &modelv1.TaskStatus{State: taskstate.Preparing}
	if got := Adopt(preparing, exec.Container{ID: "c"}, now); got != preparing {
		t.Errorf("a container that was not started: %v, want what was known", got)
	}
	got := Adopt(preparing, exec.Container{ID: "c", Started: true, Running: true}, now)
	if got.GetState() != taskstate.Running {
		t.Errorf("a running container: %v, want RUNNING", got)
	}
	if got := Adopt(nil, exec.Container{Started: true}, now); got.GetState() != taskstate.Running {
		t.Errorf("a started container nobody remembers: %v, want RUNNING", got)
	}
	failed := &modelv1.TaskStatus{State: taskstate.Failed}
	if got := Adopt(failed, exec.Container{Started: true, Running: true}, now); got != failed {
		t.Errorf("a task that had failed: %v, want it so", got)
	}
}
