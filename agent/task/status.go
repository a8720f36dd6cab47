package task

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/invariant"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// statusOf returns the status of a task that reached v.State at the agent's
// time now.
func statusOf(v Verdict, now time.Time) *modelv1.TaskStatus {
	s := &modelv1.TaskStatus{State: v.State, AgentAt: now.UnixNano(), Error: words(v.Error)}
	if v.Exit != nil {
		s.ExitCode = proto.Int32(v.Exit.Code)
		if !v.Exit.At.IsZero() {
			s.AgentAt = v.Exit.At.UnixNano()
		}
	}
	return s
}

// maxWords bounds an error on its way to the managers.
const maxWords = 1 << 10

// words returns a runtime's error as it may travel: valid UTF-8, and not long.
func words(err string) string {
	if len(err) > maxWords {
		err = err[:maxWords] + " …"
	}
	return strings.ToValidUTF8(err, "�")
}

// advance returns next after status. Invariant: a state only moves forward.
func advance(status, next *modelv1.TaskStatus) *modelv1.TaskStatus {
	invariant.Check(next.GetState() > status.GetState() && !taskstate.Terminal(status.GetState()),
		"a task moves forward: from %s to %s", taskstate.Name(status.GetState()), taskstate.Name(next.GetState()))
	return next
}

// Adopt returns the status of a task whose container was found on the host by
// an agent that remembers status of it, which may be nil: a container that was
// ever started is RUNNING until the wait for it says more.
func Adopt(status *modelv1.TaskStatus, found exec.Container, now time.Time) *modelv1.TaskStatus {
	if !found.Started || status.GetState() >= taskstate.Running {
		return status
	}
	return statusOf(Verdict{State: taskstate.Running}, now)
}
