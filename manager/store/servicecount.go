package store

import (
	"cmp"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
)

// A ServiceCount is how many tasks of a service there are, so that to say how it is does
// not take a walk through all of them.
type ServiceCount struct {
	// Wanted are the tasks that are meant to run and have not ended; Running those of
	// them that run, as far as their nodes have reported, whatever became of the node.
	Wanted, Running int
}

// of is what a task is to the count of its service; nil is no task.
func (c ServiceCount) of(t *Task, by int) ServiceCount {
	if !t.Counts() {
		return c
	}
	c.Wanted += by
	if t.Observed == taskstate.Running {
		c.Running += by
	}
	return c
}

// Counts reports whether t is meant to run and has not ended. A nil task does not.
func (t *Task) Counts() bool {
	return t != nil && t.Desired <= taskstate.Running && !t.Terminal()
}

// tally is the count of one service, as a table keeps it.
type tally struct {
	service id.ID
	ServiceCount
}

func tallyOrders() []order[*tally] {
	return []order[*tally]{{
		less: func(a, b *tally) bool { return id.Compare(a.service, b.service) < 0 },
		rank: func(c *tally) uint64 { return rankOf(c.service[:]) },
	}}
}

// count notes that a task is what it is now, instead of old; nil is none.
func (s *state) count(old, now *Task) {
	by := 0
	if old != nil && old.UnderWay() {
		by--
	}
	if now != nil && now.UnderWay() {
		by++
	}
	turn := ServiceCount{}.of(old, -1).of(now, 1)
	if by == 0 && turn == (ServiceCount{}) {
		return
	}
	service := cmp.Or(old, now).Service
	s.turn(by, service, turn)
	s.undo = append(s.undo, func() { s.turn(-by, service, ServiceCount{-turn.Wanted, -turn.Running}) })
}

func (s *state) turn(underWay int, service id.ID, by ServiceCount) {
	s.underWay += underWay
	if by == (ServiceCount{}) {
		return
	}
	if s.turned == nil {
		s.turned = make(map[id.ID]ServiceCount)
	}
	c := s.turned[service]
	s.turned[service] = ServiceCount{c.Wanted + by.Wanted, c.Running + by.Running}
}

// recount writes into the table what has turned since it was published: once a service,
// however many of its tasks are in an entry.
func (s *state) recount() {
	for service, by := range s.turned {
		c := tally{service: service, ServiceCount: s.countOf(service)}
		c.Wanted, c.Running = c.Wanted+by.Wanted, c.Running+by.Running
		if c.ServiceCount == (ServiceCount{}) {
			s.tallies.delete(&c)
		} else {
			s.tallies.set(&c)
		}
	}
	s.turned = nil
}

func (s *state) countOf(service id.ID) ServiceCount {
	c, ok := s.tallies.get(&tally{service: service})
	if !ok {
		return ServiceCount{}
	}
	return c.ServiceCount
}

// ServiceCount returns the counts of a service, zero if it has no such tasks. It walks
// nothing. In a transaction they are those of its base.
func (s *Snapshot) ServiceCount(service id.ID) ServiceCount { return s.state.countOf(service) }
