package store

import (
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// createTask adds a task. It is ASSIGNED if it has a node, else PENDING, unless it
// comes with a greater state.
func (s *state) createTask(p *modelv1.Task) *Conflict {
	if bad := badID(KindTask, p.GetId()); bad != nil {
		return bad
	}
	if bad := badID(KindService, p.GetService()); bad != nil {
		return bad
	}
	t := TaskFromProto(p)
	if _, had := s.tasks.get(t); had {
		return refuse(KindTask, p.GetId(), "exists already")
	}
	if _, ok := s.services.get(&modelv1.Service{Id: p.GetService()}); !ok {
		return refuse(KindService, p.GetService(), "does not exist, a task of it cannot be created")
	}
	first := taskstate.Pending
	if !t.Node.IsZero() {
		if c := s.placeable(t.Node); c != nil {
			return c
		}
		first = taskstate.Assigned
	}
	if t.Observed < first {
		t.observe(&modelv1.TaskStatus{State: first})
	}
	t.CreatedIndex, t.DecidedIndex = s.index, s.index
	t.CreatedAt, t.DesiredAt = s.now, s.now
	s.setTask(nil, t, s.now)
	return nil
}

// placeable refuses a node that is not there (any more).
func (s *state) placeable(node id.ID) *Conflict {
	if _, ok := s.nodes.get(&modelv1.Node{Id: node[:]}); !ok {
		return refuse(KindNode, node[:], "does not exist, no task can be placed on it")
	}
	return nil
}

// setTask puts t, which was old before (nil if it is new) and whose state was
// observed at the time at.
func (s *state) setTask(old, t *Task, at int64) {
	t.ObservedAt = at
	if t.Detail != nil && t.Detail.GetAt() != at {
		t.Detail = proto.CloneOf(t.Detail)
		t.Detail.At = at
	}
	put(s, &s.tasks, t, taskChange(t, old))
}

func taskChange(t, was *Task) Change {
	return Change{Kind: KindTask, Key: t.ID.Bytes(), Service: t.Service, Node: t.Node, Was: was}
}

// decide writes what managers decide of a task. Desired never goes back: a lesser
// one changes nothing. A placed task is never moved.
func (s *state) decide(d *logv1.Decide) *Conflict {
	old, ok := s.tasks.get(&Task{ID: asID(d.GetTask())})
	if !ok {
		return refuse(KindTask, d.GetTask(), "does not exist")
	}
	t := *old
	if d.GetDesired() > t.Desired {
		t.Desired, t.DesiredAt, t.DecidedIndex = d.GetDesired(), s.now, s.index
	}
	if d.Reason != nil {
		t.Reason = d.GetReason()
	}
	at := t.ObservedAt
	if node := asID(d.GetNode()); !node.IsZero() && node != t.Node {
		if !t.Node.IsZero() {
			return refuse(KindTask, d.GetTask(), "is placed on node %s already", t.Node)
		}
		if c := s.placeable(node); c != nil {
			return c
		}
		t.Node, t.DecidedIndex = node, s.index
		if t.Observed < taskstate.Assigned {
			t.observe(&modelv1.TaskStatus{State: taskstate.Assigned})
			at = s.now
		}
	}
	if t == *old {
		return nil
	}
	s.setTask(old, &t, at)
	return nil
}

// report joins what an agent observed into a task (R5). It never conflicts: what
// is unknown, of another node, or no news changes nothing.
func (s *state) report(r *logv1.Report) {
	old, ok := s.tasks.get(&Task{ID: asID(r.GetTask())})
	news := r.GetStatus()
	if !ok || old.Node != asID(r.GetNode()) || old.Node.IsZero() {
		return
	}
	if news.GetState() <= old.Observed || news.GetState() == taskstate.Remove {
		return
	}
	t := *old
	t.observe(news)
	s.setTask(old, &t, s.now)
}
