package events

import (
	"cmp"
	"strconv"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// passing are the actions of tasks that tell nothing by themselves: where a task
// comes through, and that its record is forgotten.
var passing = map[string]bool{
	"create": true, "assigned": true, "accepted": true, "preparing": true, "ready": true, "starting": true, "destroy": true,
}

// A taskTurn is what became of a task, as little as tells it later.
type taskTurn struct {
	// task as it became or, destroyed, as it was.
	task   *store.Task
	action string
	lore   *lore
	node   string // name; "" if it has none or the task no node
}

// lore is what is told of a task besides itself, as it was at that time.
type lore struct {
	service  id.ID
	revision uint64
	name     string            // of the service
	labels   map[string]string // of the revision's containers; they are the state's own
}

// tell turns it into words.
func (v *taskTurn) tell() Entry {
	t, name := v.task, v.lore.name+"."
	if t.Slot != 0 {
		name += decimal(t.Slot)
	} else {
		name += t.Node.String()
	}
	event := &controlv1.Event{Type: TypeTask, Action: v.action, Id: t.ID.Bytes(), Name: name, Reason: oneLine(v.reason()),
		Attributes: map[string]string{"service": cut(v.lore.name, maxAttribute)}}
	if !t.Node.IsZero() {
		event.Attributes["node"] = cut(cmp.Or(v.node, t.Node.Short()), maxAttribute)
	}
	if v.action == taskstate.Name(t.Observed) && t.Terminal() && t.Detail != nil && t.Detail.ExitCode != nil {
		event.Attributes["exitcode"] = strconv.Itoa(int(t.Detail.GetExitCode()))
	}
	return Entry{Event: event, Labels: v.lore.labels, Node: t.Node, Service: t.Service}
}

func (v *taskTurn) reason() string {
	switch v.action {
	case create, destroy:
		return ""
	case pending:
		return v.task.Reason
	}
	return v.task.Detail.GetError()
}

// size counts the task as if nobody else remembered it.
func (v *taskTurn) size() int {
	return 250 + len(v.task.Reason) + len(v.task.Detail.GetError())
}

// The actions of tasks that are no states. That a task is pending is told with the
// reason, each time that is another.
const (
	create  = "create"
	destroy = "destroy"
	pending = "pending"
)

// task tells what became of a task.
func (s *step) task(old, t *store.Task) {
	switch {
	case old == nil && t == nil:
	case old == nil:
		s.turn(t, create)
		if t.Node.IsZero() && t.Reason != "" {
			s.turn(t, pending)
		}
	case t == nil:
		s.turn(old, destroy)
	default:
		if t.Node.IsZero() && t.Reason != old.Reason && t.Reason != "" && !t.Terminal() {
			s.turn(t, pending)
		}
		if old.Observed != t.Observed {
			s.turn(t, taskstate.Name(t.Observed))
		}
	}
}

// turn notes what became of a task.
func (s *step) turn(t *store.Task, action string) {
	v := taskTurn{task: t, action: action, lore: s.loreOf(t)}
	if !t.Node.IsZero() {
		v.node = nodeName(s.nodeAt(t.Node))
	}
	s.out = append(s.out, memo{index: s.index, at: s.at, turn: v})
}

// loreOf is the service's name as it is, or as it was, and the labels.
func (s *step) loreOf(t *store.Task) *lore {
	if l := s.lore; l != nil && l.service == t.Service && l.revision == t.Revision {
		return l
	}
	v := s.after.Service(t.Service)
	if v == nil {
		v = s.before.Service(t.Service)
	}
	s.lore = &lore{
		service: t.Service, revision: t.Revision, name: v.GetSpec().GetName(),
		labels: s.after.Revision(t.Service, t.Revision).GetTemplate().GetContainer().GetLabels(),
	}
	return s.lore
}
