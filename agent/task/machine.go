// Package task leads one task through its life on this node.
//
// Its core is pure: [Plan] says what to do from what is wanted and what is,
// [Enter] which states that passes through, and [Settle] what the outcome of it
// means. A [Runner] is the thin part that does it, one goroutine per task.
// Which tasks there are, what is remembered of them and whom they are reported
// to is the worker's; what a container is, the runtime's.
//
// Invariants:
//
//   - a task's state only moves forward, and once terminal never moves;
//   - a task that is to be READY is not started, and one that was told to stop
//     is never started after that;
//   - only the runtime's word ends a task that was started: that it does not
//     answer says nothing.
package task

import (
	"errors"
	"fmt"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/taskstate"
)

// State is a desired or an observed state of a task.
type State = taskstate.State

// An Action is what a task's runner does next.
type Action uint8

const (
	// Idle waits for another desired state.
	Idle Action = iota
	// Prepare makes the container.
	Prepare
	// Start starts it.
	Start
	// Wait waits for its end.
	Wait
	// Stop shuts it down.
	Stop
	// End does nothing: the task is terminal.
	End
)

// String returns the action as a verb.
func (a Action) String() string {
	return [...]string{"idle", "prepare", "start", "wait", "stop", "end"}[a]
}

// Plan returns what to do for a task that is wanted in one state and is in
// another.
func Plan(desired, observed State) Action {
	switch {
	case taskstate.Terminal(observed):
		return End
	case desired > taskstate.Complete:
		return Stop
	case observed < taskstate.Ready:
		return Prepare
	case desired <= taskstate.Ready:
		return Idle
	case observed < taskstate.Running:
		return Start
	default:
		return Wait
	}
}

// Enter returns the states a task in the observed one passes through when it
// begins the action, in order.
func Enter(a Action, observed State) []State {
	var through []State
	switch a {
	case Prepare:
		through = []State{taskstate.Accepted, taskstate.Preparing}
	case Start:
		through = []State{taskstate.Starting}
	}
	for len(through) > 0 && through[0] <= observed {
		through = through[1:]
	}
	return through
}

// maxTries is how often an action is tried that fails for a reason that may
// pass, and is not the runtime's silence. With Delay it comes to half a minute.
const maxTries = 9

// Delay returns how long to wait before the next try, after tries failed ones.
func Delay(tries int) time.Duration {
	const first, longest = 100 * time.Millisecond, 10 * time.Second
	return min(first<<min(tries-1, 10), longest)
}

// An Outcome is how an action ended: in an error, in an exit, or just done.
type Outcome struct {
	Exit *exec.Exit
	Err  error
	// Lost: it was stopped, but had ended before by an end that nobody knows.
	Lost error
}

// A Verdict is what an outcome means for the task.
type Verdict struct {
	// State is the task's next state. 0: the same, try again.
	State State
	// Error says why it failed or was rejected.
	Error string
	// Exit is how the container ended, if it has.
	Exit *exec.Exit
}

// Settle returns what the outcome of an action means. failures counts the
// tries that failed though the runtime answered, this one included.
func Settle(a Action, o Outcome, failures int) Verdict {
	switch a {
	case Prepare:
		return settleTry(o.Err, failures, taskstate.Ready, taskstate.Rejected)
	case Start:
		return settleTry(o.Err, failures, taskstate.Running, taskstate.Failed)
	case Wait:
		return settleWait(o)
	case Stop:
		if o.Lost != nil {
			// The real end is told, though the task was to stop anyway.
			return Verdict{State: taskstate.Failed, Error: lost(o.Lost)}
		}
		if o.Err == nil || errors.Is(o.Err, exec.ErrGone) {
			return Verdict{State: taskstate.Shutdown, Exit: o.Exit}
		}
	}
	return Verdict{}
}

// settleTry is the verdict on an action that leads to good, or after enough
// failures to bad.
func settleTry(err error, failures int, good, bad State) Verdict {
	switch {
	case err == nil:
		return Verdict{State: good}
	case errors.Is(err, exec.ErrRejected):
		return Verdict{State: taskstate.Rejected, Error: err.Error()}
	case errors.Is(err, exec.ErrGone):
		return Verdict{State: bad, Error: "task: " + err.Error()}
	case exec.Unavailable(err), failures < maxTries:
		return Verdict{}
	default:
		return Verdict{State: bad, Error: err.Error()}
	}
}

func settleWait(o Outcome) Verdict {
	switch {
	case errors.Is(o.Err, exec.ErrGone):
		return Verdict{State: taskstate.Failed, Error: lost(o.Err)}
	case o.Err != nil || o.Exit == nil:
		return Verdict{}
	case o.Exit.Code == 0:
		return Verdict{State: taskstate.Complete, Exit: o.Exit}
	}
	why := fmt.Sprintf("task: non-zero exit (%d)", o.Exit.Code)
	if o.Exit.OOM {
		why += ": out of memory"
	}
	return Verdict{State: taskstate.Failed, Error: why, Exit: o.Exit}
}

// lost says that the container ended and nobody saw how: its host or its runtime
// went down under it, or somebody else removed it. The first words are what fits
// into a list.
func lost(err error) string { return "task: container was lost: " + err.Error() }
