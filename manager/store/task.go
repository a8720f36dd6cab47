package store

import (
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Task is one attempt to fill a slot, as the store keeps it: the only numerous
// object, so a struct of ours with few pointers (R29). It is never mutated.
//
// At most 450 bytes with its indexes; a test holds it to that.
type Task struct {
	ID, Service id.ID
	// Node is zero until the task is placed, and then never changes.
	Node     id.ID
	Revision uint64
	// Slot is 1-based; 0 for a task that belongs to a node, not to a slot.
	Slot uint64
	// CreatedIndex is the entry that created it; DecidedIndex the one that last
	// wrote Desired, Node or Revision, which is what an Expect names (R11).
	CreatedIndex, DecidedIndex uint64
	Desired, Observed          modelv1.TaskState
	// Log time in Unix nanoseconds: of creation, of the last change of Desired, of
	// the commit of Observed. AgentAt is the agent's clock, only ever shown.
	CreatedAt, DesiredAt, ObservedAt, AgentAt int64
	// Reason says in words why the task is pending.
	Reason string
	// Detail is the status as it was reported, if it says more than a state and
	// its times: message, error, exit code or container. Else nil.
	Detail *modelv1.TaskStatus
}

// Status returns what was observed of t. It is never nil.
func (t *Task) Status() *modelv1.TaskStatus {
	if t.Detail != nil {
		return t.Detail
	}
	return &modelv1.TaskStatus{State: t.Observed, At: t.ObservedAt, AgentAt: t.AgentAt}
}

// Terminal reports whether t has ended.
func (t *Task) Terminal() bool { return taskstate.Terminal(t.Observed) }

// UnderWay reports whether its node is yet to report what t is meant to be: that it
// runs, or has ended.
func (t *Task) UnderWay() bool {
	return !t.Node.IsZero() && !t.Terminal() && (t.Desired > modelv1.TaskState_TASK_STATE_RUNNING || t.Observed < modelv1.TaskState_TASK_STATE_RUNNING)
}

// Proto returns t as it is on the wire, in the log and in snapshots. The status
// may be shared with the store: it is not to be changed.
func (t *Task) Proto() *modelv1.Task {
	return &modelv1.Task{
		Id: t.ID.Bytes(), Service: t.Service.Bytes(), Node: t.Node.Bytes(),
		Revision: t.Revision, Slot: t.Slot,
		CreatedIndex: t.CreatedIndex, DecidedIndex: t.DecidedIndex,
		Desired: t.Desired, Status: t.Status(),
		CreatedAt: t.CreatedAt, DesiredAt: t.DesiredAt, Reason: t.Reason,
	}
}

// TaskFromProto returns p as the store keeps it. Ids that are not ids are zero:
// apply refuses such a task before it comes this far.
func TaskFromProto(p *modelv1.Task) *Task {
	t := &Task{
		ID: asID(p.GetId()), Service: asID(p.GetService()), Node: asID(p.GetNode()),
		Revision: p.GetRevision(), Slot: p.GetSlot(),
		CreatedIndex: p.GetCreatedIndex(), DecidedIndex: p.GetDecidedIndex(),
		Desired: p.GetDesired(), CreatedAt: p.GetCreatedAt(), DesiredAt: p.GetDesiredAt(),
		Reason: p.GetReason(),
	}
	t.observe(p.GetStatus())
	return t
}

// observe writes st into t, which must not have been published yet. st becomes
// the store's own.
func (t *Task) observe(st *modelv1.TaskStatus) {
	t.Observed, t.ObservedAt, t.AgentAt = st.GetState(), st.GetAt(), st.GetAgentAt()
	t.Detail = nil
	if st.GetError() != "" || (st != nil && st.ExitCode != nil) {
		t.Detail = st
	}
}

// asID returns the id whose bytes are b; zero if b is no id.
func asID(b []byte) id.ID {
	x, err := id.FromBytes(b)
	if err != nil {
		return id.ID{}
	}
	return x
}
