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
	if bad := badID(KindService, p.GetService()); bad != nil {
		return bad
	}
	if _, ok := s.services.get(&modelv1.Service{Id: p.GetService()}); !ok {
		return refuse(KindService, p.GetService(), "does not exist, a task of it cannot be created")
	}
	if bad := badID(KindTask, p.GetId()); bad != nil {
		return bad
	}
	return s.addTask(TaskFromProto(p))
}

// addTask adds t, whose service exists.
func (s *state) addTask(t *Task) *Conflict {
	if bad := badID(KindTask, t.ID[:]); bad != nil {
		return bad
	}
	if _, had := s.tasks.get(t); had {
		return refuse(KindTask, t.ID.Bytes(), "exists already")
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
	s.setTask(t, s.now, taskChange(t, nil))
	return nil
}

// placeable refuses a node that is not there (any more).
func (s *state) placeable(node id.ID) *Conflict {
	if _, ok := s.nodes.get(&modelv1.Node{Id: node[:]}); !ok {
		return refuse(KindNode, node[:], "does not exist, no task can be placed on it")
	}
	return nil
}

// setTask puts t, whose state was observed at the time at; c tells of it.
func (s *state) setTask(t *Task, at int64, c Change) {
	t.ObservedAt = at
	if t.Detail != nil && t.Detail.GetAt() != at {
		t.Detail = proto.CloneOf(t.Detail)
		t.Detail.At = at
	}
	put(s, &s.tasks, t, c)
	s.count(c.Was, t)
}

// dropTask deletes a task.
func (s *state) dropTask(t *Task) {
	drop(s, &s.tasks, t, taskChange(t, t))
	s.count(t, nil)
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
	return s.decideOf(old, d.GetDesired(), asID(d.GetNode()), d.Reason)
}

// decideOf is decide of the task that old is now. No reason leaves it as it was,
// and so does no node.
func (s *state) decideOf(old *Task, desired modelv1.TaskState, node id.ID, reason *string) *Conflict {
	t := *old
	if desired > t.Desired {
		t.Desired, t.DesiredAt, t.DecidedIndex = desired, s.now, s.index
	}
	if reason != nil {
		t.Reason = *reason
	}
	at := t.ObservedAt
	if !node.IsZero() && node != t.Node {
		if !t.Node.IsZero() {
			return refuse(KindTask, t.ID.Bytes(), "is placed on node %s already", t.Node)
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
	s.setTask(&t, at, taskChange(&t, old))
	return nil
}

// report joins what an agent observed into a task (R5). It never conflicts: what
// is unknown, of another node, or no news changes nothing.
func (s *state) report(r *logv1.Report) {
	if node := asID(r.GetNode()); !node.IsZero() {
		s.observed(asID(r.GetTask()), node, r.GetStatus())
	}
}

// observed joins what a node saw of a task; a node of zero is the task's own.
func (s *state) observed(task, node id.ID, news *modelv1.TaskStatus) {
	old, ok := s.tasks.get(&Task{ID: task})
	if !ok || old.Node.IsZero() || !node.IsZero() && old.Node != node {
		return
	}
	if news.GetState() <= old.Observed || news.GetState() == taskstate.Remove {
		return
	}
	t := *old
	t.observe(news)
	c := taskChange(&t, old)
	c.Observed = true
	s.setTask(&t, s.now, c)
}
