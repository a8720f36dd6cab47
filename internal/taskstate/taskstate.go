// Package taskstate is the chain of a task's states and what follows from it.
//
// A task only moves forward: PENDING, ASSIGNED, ACCEPTED … RUNNING, then one
// terminal state. Because the order is total, joining two observations is taking
// the greater, which makes reports commute and repeat harmlessly (R5).
//
// Everything here is a function of plain values: no clock, no store.
package taskstate

import (
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// State is a desired or an observed state of a task.
type State = modelv1.TaskState

// The states, by the words people use for them.
const (
	New       = modelv1.TaskState_TASK_STATE_UNSPECIFIED
	Pending   = modelv1.TaskState_TASK_STATE_PENDING
	Assigned  = modelv1.TaskState_TASK_STATE_ASSIGNED
	Accepted  = modelv1.TaskState_TASK_STATE_ACCEPTED
	Preparing = modelv1.TaskState_TASK_STATE_PREPARING
	Ready     = modelv1.TaskState_TASK_STATE_READY
	Starting  = modelv1.TaskState_TASK_STATE_STARTING
	Running   = modelv1.TaskState_TASK_STATE_RUNNING
	Complete  = modelv1.TaskState_TASK_STATE_COMPLETE
	Shutdown  = modelv1.TaskState_TASK_STATE_SHUTDOWN
	Failed    = modelv1.TaskState_TASK_STATE_FAILED
	Rejected  = modelv1.TaskState_TASK_STATE_REJECTED
	Remove    = modelv1.TaskState_TASK_STATE_REMOVE
	Orphaned  = modelv1.TaskState_TASK_STATE_ORPHANED
)

// Terminal reports whether a task observed in s has ended and will not move again.
func Terminal(s State) bool { return s > Running }

// Active reports whether a node holds a task observed in s: from ASSIGNED to RUNNING.
func Active(s State) bool { return s >= Assigned && s <= Running }

// Name returns s as people read it: "running". The state of a task that was just
// created is "new".
func Name(s State) string {
	if s == New {
		return "new"
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "TASK_STATE_"))
}

// Parse returns the state that Name calls name.
func Parse(name string) (State, bool) {
	if name == "new" {
		return New, true
	}
	n, ok := modelv1.TaskState_value["TASK_STATE_"+strings.ToUpper(name)]
	return State(n), ok && State(n) != New
}

// Join returns what is known after both observations: the one whose state is
// greater; of equal ones, a. Exit code, error and container stay with the state
// they came with. An absent observation says nothing.
func Join(a, b *modelv1.TaskStatus) *modelv1.TaskStatus {
	switch {
	case a == nil:
		return b
	case b == nil, b.GetState() <= a.GetState():
		return a
	}
	return b
}

// UnknownSince returns since when (Unix nanoseconds of log time) the state of a
// task observed in s on the node with status is not known, or 0 if it is known:
// a task that has ended stays ended, whatever became of its node (R6).
func UnknownSince(s State, status *modelv1.NodeStatus) int64 {
	if Terminal(s) {
		return 0
	}
	return status.GetLostSince()
}
