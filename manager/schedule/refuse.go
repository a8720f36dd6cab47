package schedule

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"

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
	// reserve is what the group asks for.
	reserve Resources
}

// A refusalKind is one filter, in the order in which they are asked.
type refusalKind uint8

const (
	suits refusalKind = iota
	isDown
	unheard
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
	case s.State == modelv1.NodeState_NODE_STATE_DOWN:
		return refusal{kind: isDown}
	case s.State != modelv1.NodeState_NODE_STATE_READY:
		return refusal{kind: unheard}
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
		return refusal{kind: lacksCPU, reserve: g.Reserve}
	case g.Reserve.MemoryBytes > 0 && g.Reserve.MemoryBytes > s.Capacity.MemoryBytes-s.used.MemoryBytes:
		return refusal{kind: lacksMemory, reserve: g.Reserve}
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
	reserve     Resources
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
	case lacksCPU, lacksMemory:
		r.reserve = why.reserve
	}
}

// tight reports whether the end of a task could help.
func (r *refusals) tight() bool {
	return r.kinds[lacksCPU]+r.kinds[lacksMemory]+r.kinds[holdsEnough] > 0
}

// words returns the reason a person reads: "no suitable node among 5 (2 are down,
// 3 do not satisfy node.role==manager)". Every node is counted once.
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
	say(r.kinds[isDown], "is down", "are down")
	say(r.kinds[unheard], "is not heard", "are not heard")
	say(r.kinds[paused], "is paused", "are paused")
	say(r.kinds[drained], "is drained", "are drained")
	for _, c := range slices.Sorted(maps.Keys(r.constraints)) {
		say(r.constraints[c], "does not satisfy "+c, "do not satisfy "+c)
	}
	cpus := "less than " + strconv.FormatFloat(float64(r.reserve.NanoCPUs)/1e9, 'f', -1, 64) + " CPUs free"
	say(r.kinds[lacksCPU], "has "+cpus, "have "+cpus)
	memory := "less than " + units.BytesSize(float64(r.reserve.MemoryBytes)) + " of memory free"
	say(r.kinds[lacksMemory], "has "+memory, "have "+memory)
	if n := r.kinds[holdsEnough]; n > 0 {
		held := fmt.Sprintf("its %d replicas already", r.limit)
		if r.limit == 1 {
			held = "its one replica already"
		}
		say(n, "holds "+held, "hold "+held)
	}
	return fmt.Sprintf("no suitable node among %d (%s)", nodes, strings.Join(parts, ", "))
}
