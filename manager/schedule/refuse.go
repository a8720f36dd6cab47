package schedule

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A refusal is why one node takes no task of a group. Each node is counted under
// the first filter that refuses it.
type refusal struct {
	kind refusalKind
	// constraint is the one that is not satisfied, as typed.
	constraint string
	// limit is the group's replicas per node.
	limit uint64
}

// A refusalKind is one filter, in the order in which they are asked.
type refusalKind uint8

const (
	suits refusalKind = iota
	notReady
	paused
	drained
	misfit
	lacksCPU
	lacksMemory
	holdsEnough
)

// refuses asks every filter.
func (s *seat) refuses(g *Group) refusal {
	switch {
	case s.State != modelv1.NodeState_NODE_STATE_READY:
		return refusal{kind: notReady}
	case s.Availability == modelv1.Availability_AVAILABILITY_PAUSE:
		return refusal{kind: paused}
	case s.Availability == modelv1.Availability_AVAILABILITY_DRAIN:
		return refusal{kind: drained}
	}
	if c := g.Misfit(&s.Node); c != "" {
		return refusal{kind: misfit, constraint: c}
	}
	return s.full(g)
}

// full asks the filters whose answer changes while tasks are placed.
func (s *seat) full(g *Group) refusal {
	switch {
	case g.Reserve.NanoCPUs > 0 && g.Reserve.NanoCPUs > s.Capacity.NanoCPUs-s.used.NanoCPUs:
		return refusal{kind: lacksCPU}
	case g.Reserve.MemoryBytes > 0 && g.Reserve.MemoryBytes > s.Capacity.MemoryBytes-s.used.MemoryBytes:
		return refusal{kind: lacksMemory}
	case g.MaxPerNode > 0 && uint64(s.of[g.Service]) >= g.MaxPerNode:
		return refusal{kind: holdsEnough, limit: g.MaxPerNode}
	}
	return refusal{}
}

// refusals counts nodes by why they were refused.
type refusals struct {
	kinds       [holdsEnough + 1]int
	constraints map[string]int
	limit       uint64
}

func (r *refusals) note(why refusal) {
	r.kinds[why.kind]++
	switch why.kind {
	case misfit:
		if r.constraints == nil {
			r.constraints = make(map[string]int)
		}
		r.constraints[why.constraint]++
	case holdsEnough:
		r.limit = why.limit
	}
}

// tight reports whether the end of a task could help.
func (r *refusals) tight() bool {
	return r.kinds[lacksCPU]+r.kinds[lacksMemory]+r.kinds[holdsEnough] > 0
}

// words returns the reason a person reads: "no suitable node among 5 (2 are not
// ready; 3 do not satisfy node.role==manager)".
func (r *refusals) words(nodes int) string {
	if nodes == 0 {
		return "no suitable node: the cluster has none"
	}
	var parts []string
	say := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	say(r.kinds[notReady], "is not ready", "are not ready")
	say(r.kinds[paused], "is paused", "are paused")
	say(r.kinds[drained], "is drained", "are drained")
	for _, c := range slices.Sorted(maps.Keys(r.constraints)) {
		say(r.constraints[c], "does not satisfy "+c, "do not satisfy "+c)
	}
	say(r.kinds[lacksCPU], "lacks CPU", "lack CPU")
	say(r.kinds[lacksMemory], "lacks memory", "lack memory")
	if n := r.kinds[holdsEnough]; n > 0 {
		held := fmt.Sprintf("its %d replicas already", r.limit)
		if r.limit == 1 {
			held = "its one replica already"
		}
		say(n, "holds "+held, "hold "+held)
	}
	return fmt.Sprintf("no suitable node among %d (%s)", nodes, strings.Join(parts, "; "))
}
