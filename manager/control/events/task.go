package events

import (
	"strconv"

	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// passing are the actions of tasks that tell nothing by themselves: where a task
// comes through, and that its record is forgotten.
var passing = map[string]bool{
	"create": true, "assigned": true, "accepted": true, "preparing": true, "ready": true, "starting": true, "destroy": true,
}

// task tells what became of a task.
func (s *step) task(old, t *store.Task) {
	switch {
	case old == nil && t == nil:
	case old == nil:
		s.add(s.taskEntry(t), "create", "", s.whereabouts(t))
		if t.Node.IsZero() && t.Reason != "" {
			s.add(s.taskEntry(t), "pending", t.Reason, s.whereabouts(t))
		}
	case t == nil:
		s.add(s.taskEntry(old), "destroy", "", s.whereabouts(old))
	default:
		s.taskTurn(old, t)
	}
}

func (s *step) taskTurn(old, t *store.Task) {
	if t.Node.IsZero() && t.Reason != old.Reason && t.Reason != "" && !t.Terminal() {
		s.add(s.taskEntry(t), "pending", t.Reason, s.whereabouts(t))
	}
	if old.Observed == t.Observed {
		return
	}
	attributes := s.whereabouts(t)
	reason := t.Detail.GetError()
	if t.Terminal() && t.Detail != nil && t.Detail.ExitCode != nil {
		attributes["exitcode"] = strconv.Itoa(int(t.Detail.GetExitCode()))
	}
	s.add(s.taskEntry(t), taskstate.Name(t.Observed), reason, attributes)
}

// serviceName is the service's name as it is, or as it was.
func (s *step) serviceName(t *store.Task) string {
	v := s.after.Service(t.Service)
	if v == nil {
		v = s.before.Service(t.Service)
	}
	return v.GetSpec().GetName()
}

// taskEntry is an entry about a task, by the name that lists give it.
func (s *step) taskEntry(t *store.Task) Entry {
	name := s.serviceName(t) + "."
	if t.Slot != 0 {
		name += decimal(t.Slot)
	} else {
		name += t.Node.String()
	}
	labels := s.after.Revision(t.Service, t.Revision).GetTemplate().GetContainer().GetLabels()
	return Entry{
		Event:  &controlv1.Event{Type: TypeTask, Id: t.ID.Bytes(), Name: name},
		Labels: labels, Node: t.Node, Service: t.Service,
	}
}

// whereabouts are the service and the node of a task.
func (s *step) whereabouts(t *store.Task) map[string]string {
	out := map[string]string{"service": s.serviceName(t)}
	if t.Node.IsZero() {
		return out
	}
	out["node"] = t.Node.Short()
	if name := nodeName(s.nodeAt(t.Node)); name != "" {
		out["node"] = name
	}
	return out
}
