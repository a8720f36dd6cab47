// Package schedule chooses the node of a task.
//
// It is pure: a Board is made from plain values (nodes, and what already runs on
// them), groups of equal tasks are placed on it one after the other, and the
// Board remembers what it promised. It reads no clock and no store and draws no
// lots, so equal boards and groups give equal placements.
//
// A node is first filtered (ready, active, constraints, reservations, replicas
// per node), then chosen: the emptiest branch of the spread preferences, then
// the fewest tasks of the service, then the fewest tasks at all, then the
// smallest id. What a container really uses is not considered.
//
// Invariant: no task is placed on a node that a filter refuses, and the
// reservations placed on a node never exceed what the node has.
package schedule

import (
	"cmp"
	"slices"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Node is what placement knows of one node.
type Node struct {
	ID           id.ID
	Hostname     string
	Address      string
	Role         modelv1.Role
	State        modelv1.NodeState
	Availability modelv1.Availability
	Labels       map[string]string
	EngineLabels map[string]string
	OS           string
	Architecture string
	// Capacity is what the node has; reservations are taken from it.
	Capacity Resources
}

// Resources are amounts of what a node has and a task reserves. Zero reserves
// nothing.
type Resources struct {
	NanoCPUs    int64
	MemoryBytes int64
}

// ResourcesOf returns r as Resources; an absent r is nothing.
func ResourcesOf(r *modelv1.Resources) Resources {
	return Resources{NanoCPUs: r.GetNanoCpus(), MemoryBytes: r.GetMemoryBytes()}
}

func (r Resources) add(o Resources) Resources {
	return Resources{r.NanoCPUs + o.NanoCPUs, r.MemoryBytes + o.MemoryBytes}
}

// NodeOf returns what placement knows of n.
func NodeOf(n *modelv1.Node) Node {
	d := n.GetDescription()
	node, _ := id.FromBytes(n.GetId())
	address := d.GetAddress()
	if address == "" {
		address = n.GetStatus().GetObservedAddress()
	}
	return Node{
		ID:           node,
		Hostname:     d.GetHostname(),
		Address:      address,
		Role:         n.GetRole(),
		State:        n.GetStatus().GetState(),
		Availability: n.GetSpec().GetAvailability(),
		Labels:       n.GetSpec().GetLabels(),
		EngineLabels: d.GetEngineLabels(),
		OS:           d.GetOs(),
		Architecture: d.GetArchitecture(),
		Capacity:     ResourcesOf(d.GetResources()),
	}
}

// Ready reports whether the node takes new tasks at all.
func (n *Node) Ready() bool {
	return n.State == modelv1.NodeState_NODE_STATE_READY &&
		(n.Availability == modelv1.Availability_AVAILABILITY_ACTIVE ||
			n.Availability == modelv1.Availability_AVAILABILITY_UNSPECIFIED)
}

// A Group is tasks of one revision of one service: they ask for the same.
type Group struct {
	Service     id.ID
	Reserve     Resources
	Constraints []Constraint
	// MaxPerNode is how many tasks of the service one node may hold. Zero: no limit.
	MaxPerNode uint64
	Spread     []Spread
}

// GroupOf returns the group of the service's tasks made from t. A constraint or
// preference that does not parse is an error: control has refused it before.
func GroupOf(service id.ID, t *modelv1.TaskTemplate) (Group, error) {
	g := Group{
		Service:    service,
		Reserve:    ResourcesOf(t.GetReservations()),
		MaxPerNode: t.GetPlacement().GetMaxReplicasPerNode(),
	}
	for _, s := range t.GetPlacement().GetConstraints() {
		c, err := ParseConstraint(s)
		if err != nil {
			return g, err
		}
		g.Constraints = append(g.Constraints, c)
	}
	for _, s := range t.GetPlacement().GetSpread() {
		p, err := ParseSpread(s)
		if err != nil {
			return g, err
		}
		g.Spread = append(g.Spread, p)
	}
	return g, nil
}

// Misfit returns the first constraint of the group that n does not satisfy, as
// it was typed, or "".
func (g *Group) Misfit(n *Node) string {
	for i := range g.Constraints {
		if !g.Constraints[i].Match(n) {
			return g.Constraints[i].String()
		}
	}
	return ""
}

// A Board is the cluster while one round of placements is made. It belongs to
// one goroutine.
type Board struct {
	seats []*seat // by node id
	byID  map[id.ID]*seat
}

// A seat is one node and what was put on it.
type seat struct {
	Node
	used  Resources
	tasks int
	// of counts the tasks of each service that are meant to run here.
	of map[id.ID]int
	// troubled counts the tasks of a service that lately failed here.
	troubled map[id.ID]int
}

// NewBoard returns a board with the nodes and nothing on them.
func NewBoard(nodes []Node) *Board {
	b := &Board{byID: make(map[id.ID]*seat, len(nodes)), seats: make([]*seat, 0, len(nodes))}
	for _, n := range nodes {
		s := &seat{Node: n, of: make(map[id.ID]int)}
		b.byID[n.ID] = s
		b.seats = append(b.seats, s)
	}
	slices.SortFunc(b.seats, func(x, y *seat) int { return id.Compare(x.ID, y.ID) })
	return b
}

// Put notes a task of service that holds reserve on node. wanted says that it is
// meant to run on: a task that is only being stopped holds its reservation still
// but counts for no spreading. A node that is not on the board is ignored.
func (b *Board) Put(node, service id.ID, reserve Resources, wanted bool) {
	s := b.byID[node]
	if s == nil {
		return
	}
	s.used = s.used.add(reserve)
	s.tasks++
	if wanted {
		s.of[service]++
	}
}

// Trouble notes that a task of service has failed on node lately. A node with
// five or more such failures is chosen only when no other fits, so that one
// broken host, which is always the emptiest, does not swallow the service.
func (b *Board) Trouble(node, service id.ID) {
	s := b.byID[node]
	if s == nil {
		return
	}
	if s.troubled == nil {
		s.troubled = make(map[id.ID]int)
	}
	s.troubled[service]++
}

// troubleLimit is how many recent failures make a node the last choice.
const troubleLimit = 5

// before orders seats for one more task of service: the better one first.
func (s *seat) before(o *seat, service id.ID) int {
	return cmp.Or(
		boolCompare(s.troubled[service] >= troubleLimit, o.troubled[service] >= troubleLimit),
		cmp.Compare(s.of[service], o.of[service]),
		cmp.Compare(s.tasks, o.tasks),
		id.Compare(s.ID, o.ID))
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
