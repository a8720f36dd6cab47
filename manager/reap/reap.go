// Package reap decides what may be forgotten.
//
// Plan is a pure function. It keeps a bounded history of each slot, deletes the
// tasks that were told REMOVE once nothing of them can be running, gives up on
// tasks whose node has been lost for a day, collects revisions that nothing
// names, and at last the service that is being removed.
//
// Invariant: a task is deleted only if it has ended, was never placed, its node
// is no member any more, or it was told REMOVE and its node is Down. In the last
// case its container is swept when the node is back: an agent removes what a
// complete assignment set does not hold (R1). A task that ended by itself and was
// not told anything since has no successor: the slot's state is read from it, so
// it is never deleted as history.
package reap

import (
	"cmp"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
)

const (
	// DefaultHistory is how many tasks a slot keeps where the cluster does not say.
	DefaultHistory = 5
	// OrphanAfter is how long a node may be lost before its tasks are given up.
	OrphanAfter = 24 * time.Hour
)

// A Task is what reaping knows of a task.
type Task struct {
	ID, Node     id.ID
	Revision     uint64
	Slot         uint64
	CreatedIndex uint64
	Desired      taskstate.State
	Observed     taskstate.State
}

// A Node is how one member of the cluster stands.
type Node struct {
	Down bool
	// LostSince is the log time in Unix nanoseconds since which nobody heard of
	// it; 0 while it is heard.
	LostSince int64
}

// A Situation is all that a plan depends on.
type Situation struct {
	// Tasks are all of the service's, in any order. Plan sorts them in place.
	Tasks []Task
	// Nodes are all members of the cluster.
	Nodes map[id.ID]Node
	// Global says that slots are nodes.
	Global bool
	// Removing says that the service is being removed.
	Removing bool
	// Revisions are the numbers of the service's revisions, Kept those that the
	// service itself names.
	Revisions, Kept []uint64
	// History is the cluster's setting: tasks kept per slot. Zero: DefaultHistory;
	// negative: all.
	History int64
	// MaxAttempts is the restart policy's; the history is never shorter than
	// what counting the attempts needs.
	MaxAttempts uint64
	// Now is log time, or a clock that is not behind it.
	Now time.Time
}

// An Answer is the whole of a plan.
type Answer struct {
	// Delete are tasks to delete, Orphan such whose end is to be written.
	Delete, Orphan []id.ID
	// Revisions are the numbers of those to delete.
	Revisions []uint64
	// Service says that the service itself is to be deleted: it has no task left.
	Service bool
	// Wake is when time alone may change the plan; zero is never.
	Wake time.Time
}

// Plan decides. Equal situations give equal answers.
func Plan(s Situation) Answer {
	var a Answer
	if s.Removing && len(s.Tasks) == 0 {
		a.Service = true
		return a
	}
	order := func(x, y Task) int {
		return cmp.Or(s.compareSlots(&x, &y), cmp.Compare(x.CreatedIndex, y.CreatedIndex), id.Compare(x.ID, y.ID))
	}
	if !slices.IsSortedFunc(s.Tasks, order) { // they mostly come so
		slices.SortFunc(s.Tasks, order)
	}
	for from := 0; from < len(s.Tasks); {
		to := from + 1
		for to < len(s.Tasks) && s.compareSlots(&s.Tasks[from], &s.Tasks[to]) == 0 {
			to++
		}
		s.slot(s.Tasks[from:to], &a)
		from = to
	}
	a.Revisions = s.unnamed()
	return a
}

func (s *Situation) compareSlots(x, y *Task) int {
	if s.Global {
		return id.Compare(x.Node, y.Node)
	}
	return cmp.Compare(x.Slot, y.Slot)
}

// slot decides on the tasks of one slot, oldest first.
func (s *Situation) slot(tasks []Task, a *Answer) {
	surplus := -s.history()
	for i := range tasks {
		if tasks[i].Desired != taskstate.Remove {
			surplus++
		}
	}
	for i := range tasks {
		t := &tasks[i]
		_, member := s.Nodes[t.Node]
		ended := taskstate.Terminal(t.Observed) || (t.Node.IsZero() && t.Desired > taskstate.Running)
		switch {
		case t.Desired == taskstate.Remove && (ended || !member || s.Nodes[t.Node].Down):
			a.Delete = append(a.Delete, t.ID)
		case ended && t.Desired != taskstate.Remove && t.Desired > taskstate.Running && surplus > 0:
			a.Delete = append(a.Delete, t.ID)
			surplus--
		case !ended && !t.Node.IsZero() && t.Desired > taskstate.Running:
			s.orphan(t, a)
		}
	}
}

// orphan gives a lost task up when it is time, or asks to be woken then. A task
// still meant to run is first told to shut down: that is not for reap to say.
func (s *Situation) orphan(t *Task, a *Answer) {
	n, member := s.Nodes[t.Node]
	if member && (!n.Down || n.LostSince == 0) {
		return
	}
	if due := time.Unix(0, n.LostSince).Add(OrphanAfter); member && due.After(s.Now) {
		if a.Wake.IsZero() || due.Before(a.Wake) {
			a.Wake = due
		}
		return
	}
	a.Orphan = append(a.Orphan, t.ID)
}

// history is how many tasks a slot keeps, at least 1.
func (s *Situation) history() int {
	const all = 1 << 31
	switch {
	case s.History < 0:
		return all
	case s.History == 0:
		return int(min(max(DefaultHistory, s.MaxAttempts+1), all))
	}
	return int(min(max(uint64(s.History), s.MaxAttempts+1), all))
}

// unnamed returns the revisions that neither the service nor a task names.
func (s *Situation) unnamed() []uint64 {
	if len(s.Revisions) == 0 {
		return nil
	}
	named := make(map[uint64]bool)
	for _, r := range s.Kept {
		named[r] = true
	}
	for i := range s.Tasks {
		if r := s.Tasks[i].Revision; !named[r] {
			named[r] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(s.Revisions), func(r uint64) bool { return named[r] })
}
