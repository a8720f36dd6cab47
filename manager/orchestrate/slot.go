package orchestrate

import (
	"cmp"
	"slices"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A slot is one place for a task, all tasks it ever held that are still known,
// and what they amount to.
type slot struct {
	number uint64
	node   id.ID
	tasks  []Task // oldest first
	wanted bool

	// newest is the last task that was not told to stop; without one, the last
	// that is not on its way to be deleted.
	newest *Task
	// keeper is the task that holds the slot: of those meant to run on a sound
	// node, one of the target revision, one that runs, the oldest.
	keeper *Task
	// spare is the task of another revision that stays until a fresh keeper runs.
	spare *Task
	// running says that some task meant to run does.
	running bool
	// stopping says that a task which must end first may still run.
	stopping bool
	// tried is when a task that this update made first ran or ended by itself; 0
	// if none has yet.
	tried int64
	// failed is a task of this update that failed.
	failed *Task
	// granted says that the update may change this slot now.
	granted bool
}

// The ways in which a task may stand.
type standing uint8

const (
	dead     standing = iota // has ended, or never left the drawing board and never will
	lost                     // its node is Down or removed
	stopping                 // told to stop, not ended yet
	evicted                  // must be told to stop: its node drains or does not suit
	live                     // meant to run, on a sound node or on none yet
)

// stands returns how t stands, and for one lost or evicted why.
func (p *planner) stands(t *Task) (standing, string) {
	if taskstate.Terminal(t.Observed) {
		return dead, ""
	}
	if t.Node.IsZero() {
		if t.Desired > taskstate.Running {
			return dead, ""
		}
		return live, ""
	}
	n, ok := p.Nodes[t.Node]
	switch {
	case !ok:
		return lost, "its node was removed from the cluster"
	case n.State == modelv1.NodeState_NODE_STATE_DOWN:
		return lost, "node " + n.Name + " is down"
	case t.Desired > taskstate.Running:
		return stopping, ""
	case n.Availability == modelv1.Availability_AVAILABILITY_DRAIN:
		return evicted, "node " + n.Name + " is drained"
	}
	if p.Misfit != nil {
		if why := p.Misfit(t.Revision, t.Node); why != "" {
			return evicted, "node " + n.Name + " no longer satisfies " + why
		}
	}
	return live, ""
}

// choose marks the slots that the service wants, and adds those it lacks.
func (p *planner) choose() {
	if p.global() {
		p.chooseNodes()
		return
	}
	want := int(min(p.Service.GetSpec().GetReplicated().GetReplicas(), maxReplicas))
	held := make([]*slot, 0, len(p.slots))
	for i := range p.slots {
		if p.slots[i].held() {
			held = append(held, &p.slots[i])
		}
	}
	if len(held) > want {
		p.shrink(held, want)
		return
	}
	for _, v := range held {
		v.wanted = true
	}
	p.grow(want - len(held))
}

// maxReplicas bounds what one plan will make, whatever the record says.
const maxReplicas = 1 << 20

// held reports whether the slot holds a task that is not to be deleted.
func (v *slot) held() bool {
	return slices.ContainsFunc(v.tasks, func(t Task) bool { return t.Desired < taskstate.Remove })
}

// shrink wants the best of the held slots: those that run, then the lowest.
func (p *planner) shrink(held []*slot, want int) {
	runs := make(map[*slot]int, len(held))
	for _, v := range held {
		for i := range v.tasks {
			if s, _ := p.stands(&v.tasks[i]); s == live && v.tasks[i].Observed == taskstate.Running {
				runs[v] = -1
			}
		}
	}
	slices.SortStableFunc(held, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(runs[a], runs[b]), cmp.Compare(a.number, b.number))
	})
	for _, v := range held[:want] {
		v.wanted = true
	}
}

// grow wants n more slots: the lowest numbers that are not wanted yet.
func (p *planner) grow(n int) {
	made := make([]slot, 0, n)
	at := 0
	for number := uint64(1); n > 0; number++ {
		for at < len(p.slots) && p.slots[at].number < number {
			at++
		}
		switch {
		case at == len(p.slots) || p.slots[at].number > number:
			made = append(made, slot{number: number, wanted: true})
			n--
		case !p.slots[at].wanted:
			p.slots[at].wanted = true
			n--
		}
	}
	p.slots = append(p.slots, made...)
	slices.SortFunc(p.slots, func(a, b slot) int { return cmp.Compare(a.number, b.number) })
}

// chooseNodes wants a slot on every node that takes new tasks and suits, and
// those held on nodes that may keep what they have.
func (p *planner) chooseNodes() {
	seen := make(map[id.ID]bool, len(p.slots))
	for i := range p.slots {
		v := &p.slots[i]
		seen[v.node] = true
		v.wanted = p.takes(v.node) || (v.held() && p.keeps(v.node))
	}
	for node := range p.Nodes {
		if !seen[node] && p.takes(node) {
			p.slots = append(p.slots, slot{node: node, wanted: true})
		}
	}
	slices.SortFunc(p.slots, func(a, b slot) int { return id.Compare(a.node, b.node) })
}

// takes reports whether a global service wants a new task on the node.
func (p *planner) takes(node id.ID) bool {
	n, ok := p.Nodes[node]
	return ok && n.State == modelv1.NodeState_NODE_STATE_READY &&
		n.Availability != modelv1.Availability_AVAILABILITY_PAUSE && p.keeps(node)
}

// keeps reports whether a global service goes on holding a slot on the node.
func (p *planner) keeps(node id.ID) bool {
	n, ok := p.Nodes[node]
	if !ok || n.Availability == modelv1.Availability_AVAILABILITY_DRAIN {
		return false
	}
	return p.Misfit == nil || p.Misfit(p.svc.GetTarget(), node) == ""
}
