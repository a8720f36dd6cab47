package store

import (
	"bytes"
	"cmp"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The orders of the tables besides the primary one.
const (
	serviceByName   = 1
	memberByNode    = 1
	taskByService   = 1
	taskByNode      = 2
	claimByOwner    = 1
	answeredByIndex = 1
	tokenByHash     = 1
)

// state is every object at one index. The state of a published Snapshot is only
// read; a working state is written by one goroutine: apply's or a transaction's.
type state struct {
	index uint64
	// now is log time in Unix nanoseconds (R12).
	now       int64
	cluster   *modelv1.Cluster
	nodes     table[*modelv1.Node]
	members   table[*modelv1.Member]
	services  table[*modelv1.Service]
	revisions table[*modelv1.Revision]
	tasks     table[*Task]
	claims    table[*modelv1.Claim]
	users     table[*modelv1.User]
	tokens    table[*modelv1.JoinToken]
	answered  table[*logv1.Answered]
	tallies   table[*tally]
	// trail is appended to by apply only, never by a transaction's view.
	trail audit.Trail
	// underWay counts the tasks that are (see Task.UnderWay).
	underWay int

	// The three below belong to a working state: what to do, last first, to take
	// back the unit in hand, what was changed so far, and what that is to each
	// service's count.
	undo    []func()
	changes []Change
	turned  map[id.ID]ServiceCount
}

func newState() *state {
	return &state{
		nodes: newTable(order[*modelv1.Node]{
			less: func(a, b *modelv1.Node) bool { return bytes.Compare(a.GetId(), b.GetId()) < 0 },
			rank: func(n *modelv1.Node) uint64 { return rankOf(n.GetId()) },
		}),
		members:  newTable(memberOrders()...),
		services: newTable(serviceOrders()...),
		revisions: newTable(order[*modelv1.Revision]{
			less: revisionLess,
			rank: func(r *modelv1.Revision) uint64 { return rankOf(r.GetService()) },
		}),
		tasks:  newTable(taskOrders()...),
		claims: newTable(claimOrders()...),
		users: newTable(order[*modelv1.User]{less: func(a, b *modelv1.User) bool {
			return bytes.Compare(a.GetId(), b.GetId()) < 0
		}}),
		tokens:   newTable(tokenOrders()...),
		answered: newTable(answeredOrders()...),
		tallies:  newTable(tallyOrders()...),
	}
}

// fork returns a working state that begins as s. See table.fork for who may call
// it when.
func (s *state) fork() *state {
	return &state{
		index: s.index, now: s.now, cluster: s.cluster,
		nodes: s.nodes.fork(), members: s.members.fork(), services: s.services.fork(),
		revisions: s.revisions.fork(), tasks: s.tasks.fork(), claims: s.claims.fork(),
		users: s.users.fork(), tokens: s.tokens.fork(), answered: s.answered.fork(),
		tallies: s.tallies.fork(), trail: s.trail, underWay: s.underWay,
	}
}

func memberOrders() []order[*modelv1.Member] {
	return []order[*modelv1.Member]{
		{less: func(a, b *modelv1.Member) bool { return a.GetRaftId() < b.GetRaftId() }},
		{less: func(a, b *modelv1.Member) bool {
			return cmp.Or(bytes.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetRaftId(), b.GetRaftId())) < 0
		}},
	}
}

func serviceOrders() []order[*modelv1.Service] {
	return []order[*modelv1.Service]{
		{
			less: func(a, b *modelv1.Service) bool { return bytes.Compare(a.GetId(), b.GetId()) < 0 },
			rank: func(v *modelv1.Service) uint64 { return rankOf(v.GetId()) },
		},
		{less: func(a, b *modelv1.Service) bool {
			return cmp.Or(cmp.Compare(a.GetSpec().GetName(), b.GetSpec().GetName()), bytes.Compare(a.GetId(), b.GetId())) < 0
		}},
	}
}

func revisionLess(a, b *modelv1.Revision) bool {
	return cmp.Or(bytes.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetNumber(), b.GetNumber())) < 0
}

func taskOrders() []order[*Task] {
	return []order[*Task]{
		{
			less: func(a, b *Task) bool { return id.Compare(a.ID, b.ID) < 0 },
			rank: func(t *Task) uint64 { return rankOf(t.ID[:]) },
		},
		{
			less: func(a, b *Task) bool {
				if c := id.Compare(a.Service, b.Service); c != 0 {
					return c < 0
				}
				if a.Slot != b.Slot {
					return a.Slot < b.Slot
				}
				if a.CreatedIndex != b.CreatedIndex { // oldest first, as plans go through a slot
					return a.CreatedIndex < b.CreatedIndex
				}
				return id.Compare(a.ID, b.ID) < 0
			},
			rank: func(t *Task) uint64 { return rankOf(t.Service[:]) },
		},
		{
			less: func(a, b *Task) bool {
				if c := id.Compare(a.Node, b.Node); c != 0 {
					return c < 0
				}
				return id.Compare(a.ID, b.ID) < 0
			},
			rank:  func(t *Task) uint64 { return rankOf(t.Node[:]) },
			holds: func(t *Task) bool { return !t.Node.IsZero() },
		},
	}
}

func claimOrders() []order[*modelv1.Claim] {
	byKey := func(a, b *modelv1.Claim) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetKey(), b.GetKey()))
	}
	return []order[*modelv1.Claim]{
		{less: func(a, b *modelv1.Claim) bool { return byKey(a, b) < 0 }},
		{
			less: func(a, b *modelv1.Claim) bool {
				return cmp.Or(bytes.Compare(a.GetOwner(), b.GetOwner()), byKey(a, b)) < 0
			},
			rank: func(c *modelv1.Claim) uint64 { return rankOf(c.GetOwner()) },
		},
	}
}

func answeredOrders() []order[*logv1.Answered] {
	byRequest := func(a, b *logv1.Answered) int {
		return cmp.Or(bytes.Compare(a.GetRequest().GetId(), b.GetRequest().GetId()),
			cmp.Compare(a.GetRequest().GetCaller(), b.GetRequest().GetCaller()))
	}
	return []order[*logv1.Answered]{
		{
			less: func(a, b *logv1.Answered) bool { return byRequest(a, b) < 0 },
			rank: func(a *logv1.Answered) uint64 { return rankOf(a.GetRequest().GetId()) },
		},
		{
			less: func(a, b *logv1.Answered) bool {
				return cmp.Or(cmp.Compare(a.GetIndex(), b.GetIndex()), byRequest(a, b)) < 0
			},
			rank: (*logv1.Answered).GetIndex,
		},
	}
}

// put sets v in t, a table of s, so that it can be taken back.
func put[T any](s *state, t *table[T], v T, c Change) {
	old, had := t.set(v)
	s.undo = append(s.undo, func() {
		if had {
			t.set(old)
		} else {
			t.delete(v)
		}
	})
	s.note(c)
}

// drop deletes v from t, a table of s, so that it can be taken back.
func drop[T any](s *state, t *table[T], v T, c Change) {
	old, had := t.delete(v)
	if !had {
		return
	}
	s.undo = append(s.undo, func() { t.set(old) })
	c.Deleted = true
	s.note(c)
}

// note records a change for the watches. A change without a kind is of something
// nobody watches.
func (s *state) note(c Change) {
	if c.Kind == logv1.Kind_KIND_UNSPECIFIED {
		return
	}
	c.Index = s.index
	s.changes = append(s.changes, c)
}

// mark returns the place rollback goes back to.
func (s *state) mark() (undo, changes int) { return len(s.undo), len(s.changes) }

// rollback takes back everything since mark.
func (s *state) rollback(undo, changes int) {
	for i := len(s.undo) - 1; i >= undo; i-- {
		s.undo[i]()
	}
	s.undo, s.changes = s.undo[:undo], s.changes[:changes]
}
