// Package orchestrate decides which tasks a service should have.
//
// Plan is a pure function of a Situation: the service, all its tasks, how the
// nodes stand, and the time. It remembers nothing between calls: restarts,
// rolling updates and their failures are read from the tasks themselves, so a
// new leader goes on exactly where the last one stopped. It does not choose nodes
// (schedule does) and deletes nothing (reap does).
//
// A replicated service has slots, numbered from 1, lowest first; a global one has
// a slot per node. A slot holds at most one task that is meant to run, but for an
// update that starts the new one first. A task is never re-run and never moved:
// its successor in the slot is another task.
//
//   - A task that ended by itself is followed as the restart policy says.
//   - A task whose node is Down or removed is lost: it is told to shut down, and
//     its successor is made at once, whatever the restart policy says of ends.
//   - A task whose node drains or no longer satisfies the constraints is told to
//     shut down, and its successor is made once it has ended.
//   - A node that is Unknown keeps its tasks, and gets no successor elsewhere.
//   - A slot that is not wanted any more has all its tasks told REMOVE; so has
//     every slot of a service that is being removed.
//
// Invariant: a successor under stop-first is made only when everything the slot
// ever held has ended or is lost. An update takes no running slot down while as
// many slots as its parallelism are under way. The plan of a state that is as it
// should be is empty.
package orchestrate

import (
	"cmp"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Task is what planning knows of a task. Times are Unix nanoseconds of log time.
type Task struct {
	ID, Node     id.ID
	Revision     uint64
	Slot         uint64
	CreatedIndex uint64
	Desired      taskstate.State
	Observed     taskstate.State
	CreatedAt    int64
	DesiredAt    int64
	ObservedAt   int64
	// HostLost says that it ended because its host was rebooted under it: that is
	// no end of its own, and its successor need not wait.
	HostLost bool
}

// A Node is how one member of the cluster stands.
type Node struct {
	ID           id.ID
	Name         string
	State        modelv1.NodeState
	Availability modelv1.Availability
}

// A Situation is all that a plan depends on.
type Situation struct {
	Service *modelv1.Service
	// Tasks are all of the service's, in any order. Plan sorts them in place.
	Tasks []Task
	// Nodes are all members of the cluster.
	Nodes map[id.ID]Node
	// Misfit says in words why a task of the revision may not be on the node; ""
	// if it may. It must be a pure function. Nil: every task may be anywhere.
	Misfit func(revision uint64, node id.ID) string
	// Now is log time, or a clock that is not behind it.
	Now time.Time
}

// A Decision changes what a task is meant to be.
type Decision struct {
	Task    id.ID
	Desired taskstate.State
	// Reason is why, in words; may be empty.
	Reason string
}

// A Move is what changes in one slot. It is right as a whole or not at all.
type Move struct {
	// Slot is 0 in a global service.
	Slot uint64
	// Node is the slot's node in a global service, zero in a replicated one.
	Node   id.ID
	Decide []Decision
	// Create is the revision of the task to make; 0 makes none.
	Create uint64
}

// An Answer is the whole of a plan.
type Answer struct {
	// Moves are independent of each other.
	Moves []Move
	// Service is the service's record as it should become; nil leaves it. Only
	// Current, Previous, Target and Update differ from the one given.
	Service *modelv1.Service
	// Wake is when time alone may change the plan; zero is never.
	Wake time.Time
}

// Plan decides. Equal situations give equal answers.
func Plan(s Situation) Answer {
	p := &planner{Situation: s, now: s.Now.UnixNano(), svc: s.Service}
	p.group()
	if s.Service.GetRemoving() {
		for i := range p.slots {
			p.remove(&p.slots[i])
		}
		return p.answer
	}
	p.choose()
	p.classify()
	p.judge()
	p.granted()
	for i := range p.slots {
		if v := &p.slots[i]; v.wanted {
			p.move(v)
		} else {
			p.remove(v)
		}
	}
	if p.svc != s.Service {
		p.answer.Service = p.svc
	}
	return p.answer
}

// A planner is one call of Plan.
type planner struct {
	Situation
	now int64
	// svc is the service as the plan leaves it.
	svc    *modelv1.Service
	slots  []slot
	answer Answer
}

// wakeAt asks to be planned again at the time, if that is the earliest asked for.
func (p *planner) wakeAt(nanos int64) {
	if at := time.Unix(0, nanos); p.answer.Wake.IsZero() || at.Before(p.answer.Wake) {
		p.answer.Wake = at
	}
}

// global reports whether the service has a slot per node.
func (p *planner) global() bool { return p.Service.GetSpec().GetGlobal() != nil }

// group sorts the tasks and cuts them into slots.
func (p *planner) group() {
	global := p.global()
	key := func(t *Task) (uint64, id.ID) {
		if global {
			return 0, t.Node
		}
		return t.Slot, id.ID{}
	}
	order := func(a, b Task) int {
		an, ai := key(&a)
		bn, bi := key(&b)
		return cmp.Or(cmp.Compare(an, bn), id.Compare(ai, bi),
			cmp.Compare(a.CreatedIndex, b.CreatedIndex), id.Compare(a.ID, b.ID))
	}
	if !slices.IsSortedFunc(p.Tasks, order) { // they mostly come so
		slices.SortFunc(p.Tasks, order)
	}
	p.slots = make([]slot, 0, len(p.Tasks))
	for from := 0; from < len(p.Tasks); {
		number, node := key(&p.Tasks[from])
		to := from + 1
		for ; to < len(p.Tasks); to++ {
			if n, i := key(&p.Tasks[to]); n != number || i != node {
				break
			}
		}
		p.slots = append(p.slots, slot{number: number, node: node, tasks: p.Tasks[from:to]})
		from = to
	}
}

// remove tells every task of the slot that it will be deleted.
func (p *planner) remove(v *slot) {
	m := Move{Slot: v.number, Node: v.node}
	for i := range v.tasks {
		if t := &v.tasks[i]; t.Desired < taskstate.Remove {
			m.Decide = append(m.Decide, Decision{Task: t.ID, Desired: taskstate.Remove})
		}
	}
	p.emit(m)
}

func (p *planner) emit(m Move) {
	if len(m.Decide) > 0 || m.Create != 0 {
		p.answer.Moves = append(p.answer.Moves, m)
	}
}
