package progress

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// endedByItself reports whether nobody asked t to end.
func endedByItself(t *modelv1.Task) bool {
	switch t.GetStatus().GetState() {
	case taskstate.Complete, taskstate.Failed, taskstate.Rejected:
		return true
	}
	return false
}

// over reports whether t ended by itself and the restart policy leaves it at
// that, so that to wait for another task in its slot is to wait for ever.
func (v *View) over(t *modelv1.Task) bool {
	if !endedByItself(t) || t.GetDesired() > taskstate.Running {
		return false
	}
	policy := v.service.GetService().GetSpec().GetRestart()
	switch policy.GetCondition() {
	case modelv1.RestartCondition_RESTART_CONDITION_NONE:
		return true
	case modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE:
		if t.GetStatus().GetState() == taskstate.Complete {
			return true
		}
	}
	return policy.GetMaxAttempts() > 0 && v.ends(t, policy.GetWindow()) > policy.GetMaxAttempts()
}

// ends counts the tasks of t's slot and revision that ended by themselves, t
// included, and within the window before t's end if window is not 0.
func (v *View) ends(t *modelv1.Task, window int64) (n uint64) {
	for _, o := range v.tasks {
		x := o.GetTask()
		same := x.GetSlot() == t.GetSlot() && x.GetRevision() == t.GetRevision() &&
			(t.GetSlot() != 0 || string(x.GetNode()) == string(t.GetNode()))
		if same && endedByItself(x) && (window <= 0 || x.GetStatus().GetAt() > t.GetStatus().GetAt()-window) {
			n++
		}
	}
	return n
}

// lastWord is why the first slot that is over for good did not get to run to a
// good end; nil if there is none.
func (r Report) lastWord() error {
	for _, s := range r.Slots {
		if s.over && !s.done {
			why := show.Cut(strings.Join(strings.Fields(cmp.Or(s.Error, taskstate.Name(s.State))), " "), errorCells)
			return fmt.Errorf("task %s has ended and the restart policy leaves it at that: %s", s.Name, why)
		}
	}
	return nil
}
