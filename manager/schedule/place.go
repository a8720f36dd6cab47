package schedule

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/skep-project/skep/internal/id"
)

// An Outcome is where the tasks of a group go.
type Outcome struct {
	// Nodes holds one node per task that found one.
	Nodes []id.ID
	// Reason says in words why the rest found none; empty if all did.
	Reason string
	// Tight says that the end of some task could make room for the rest, not only
	// a change of a node or of the service.
	Tight bool
}

// Place finds nodes for n tasks of the group and puts the tasks there. It costs
// the number of nodes, and the logarithm of it per task.
func (b *Board) Place(g *Group, n int) Outcome {
	if n <= 0 {
		return Outcome{}
	}
	var (
		out     Outcome
		refused refusals
		root    = &branch{}
	)
	for _, s := range b.seats {
		root.count(g, s, 0)
		if why := s.refuses(g); why.kind != suits {
			refused.note(why)
			continue
		}
		root.seat(g, s, 0)
	}
	root.init(g)
	out.Nodes = make([]id.ID, 0, n)
	for len(out.Nodes) < n {
		s := root.take(g, &refused)
		if s == nil {
			out.Reason, out.Tight = refused.words(len(b.seats)), refused.tight()
			break
		}
		out.Nodes = append(out.Nodes, s.ID)
	}
	return out
}

// PlaceOn puts one task of the group on node, or says in words why it cannot
// run there and whether the end of some task could help.
func (b *Board) PlaceOn(g *Group, node id.ID) Outcome {
	s := b.byID[node]
	if s == nil {
		return Outcome{Reason: "the node is not a member of the cluster"}
	}
	if why := s.refuses(g); why.kind != suits {
		var refused refusals
		refused.note(why)
		return Outcome{Reason: refused.words(1), Tight: refused.tight()}
	}
	s.hold(g)
	return Outcome{Nodes: []id.ID{node}}
}

// hold notes one more task of the group on s.
func (s *seat) hold(g *Group) {
	s.used = s.used.add(g.Reserve)
	s.tasks++
	s.of[g.Service]++
}

// A branch is a value of a spread preference, and what grows from it: the values
// of the next preference, or at the end a heap of seats, the best first.
type branch struct {
	value string
	// tasks counts the service's tasks on all nodes of the branch, the refused
	// ones too.
	tasks    int
	children []*branch
	service  id.ID
	seats    []*seat
}

// count adds what s already runs of the service to the branches s belongs to.
func (b *branch) count(g *Group, s *seat, level int) {
	b.tasks += s.of[g.Service]
	if level < len(g.Spread) && s.of[g.Service] > 0 {
		b.child(g.Spread[level].value(&s.Node)).count(g, s, level+1)
	}
}

// seat hangs s into the leaf it belongs to.
func (b *branch) seat(g *Group, s *seat, level int) {
	if level == len(g.Spread) {
		b.seats = append(b.seats, s)
		return
	}
	b.child(g.Spread[level].value(&s.Node)).seat(g, s, level+1)
}

// child returns the child with the value, made if need be. Children are kept in
// the order of their values.
func (b *branch) child(value string) *branch {
	i, ok := slices.BinarySearchFunc(b.children, value, func(c *branch, v string) int { return cmp.Compare(c.value, v) })
	if !ok {
		b.children = slices.Insert(b.children, i, &branch{value: value})
	}
	return b.children[i]
}

// init makes heaps of the leaves.
func (b *branch) init(g *Group) {
	b.service = g.Service
	heap.Init(b)
	for _, c := range b.children {
		c.init(g)
	}
}

// take puts one task of the group on the best seat and returns it; nil if no
// seat of the branch has room. What has no room now has none later in this
// group, for its tasks are equal and only add up: it is dropped and noted.
func (b *branch) take(g *Group, refused *refusals) *seat {
	for len(b.children) > 0 {
		i := b.emptiest()
		if s := b.children[i].take(g, refused); s != nil {
			b.tasks++
			return s
		}
		b.children = slices.Delete(b.children, i, i+1)
	}
	for len(b.seats) > 0 {
		s := b.seats[0]
		if why := s.full(g); why.kind != suits {
			refused.note(why)
			heap.Pop(b)
			continue
		}
		s.hold(g)
		heap.Fix(b, 0)
		b.tasks++
		return s
	}
	return nil
}

// emptiest returns the child with the fewest tasks of the service, the first by
// value among equals.
func (b *branch) emptiest() int {
	best := 0
	for i, c := range b.children {
		if c.tasks < b.children[best].tasks {
			best = i
		}
	}
	return best
}

// The branch's seats are a heap.Interface.

func (b *branch) Len() int           { return len(b.seats) }
func (b *branch) Less(i, j int) bool { return b.seats[i].before(b.seats[j], b.service) < 0 }
func (b *branch) Swap(i, j int)      { b.seats[i], b.seats[j] = b.seats[j], b.seats[i] }
func (b *branch) Push(s any)         { b.seats = append(b.seats, s.(*seat)) }
func (b *branch) Pop() any {
	last := len(b.seats) - 1
	s := b.seats[last]
	b.seats = b.seats[:last]
	return s
}
