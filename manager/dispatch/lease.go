package dispatch

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// leaseTick is how often the lease core is stepped.
	leaseTick = 250 * time.Millisecond
	// restartGrace is how long a daemon that said it restarts may be away (R4).
	restartGrace = 60 * time.Second
)

// A heard is what one session told of its node, with the age of the telling.
type heard struct {
	node     id.ID
	boot     []byte // kernel boot id
	session  uint64 // counter drawn by the agent
	age      time.Duration
	ended    bool
	farewell modelv1.Farewell
	address  string
}

// A lease is what the leader knows of one node's life.
type lease struct {
	status *modelv1.NodeStatus // as committed or about to be
	// live says that the newest session is open, as far as is known.
	live bool
	// unheard and allowed are counted in lived ticks.
	unheard int
	allowed int
	// former are the boot ids the node had before, newest last; a kernel never
	// boots with an old one again.
	former [][]byte
	// clone is said of a node of which two machines take turns.
	clone bool
	// closed is the session that was heard to end; it does not come back.
	closed uint64
	// waived says that the guard of R3 has granted this loss one more lease.
	waived bool
	dirty  bool
}

// leases decides which nodes are alive. It is a stepped core: it has no clock
// and counts only the ticks it has lived through, so that a leader that was
// paused does not wake to find every lease past (R3).
//
// Invariant: a node is never Down before a whole lease has been lived through
// without a beat of its newest session, unless it said so itself (R4).
type leases struct {
	nodes map[id.ID]*lease
	// lease and grace in ticks.
	full, grace int
	guard       bool
}

func newLeases(full time.Duration, guard bool) *leases {
	return &leases{
		nodes: make(map[id.ID]*lease),
		full:  ticks(full),
		grace: ticks(restartGrace),
		guard: guard,
	}
}

// ticks is how many ticks cover d, at least one.
func ticks(d time.Duration) int {
	return max(1, int((d+leaseTick-1)/leaseTick))
}

// adopt takes a node over at the start of a tenure, or when its record is made.
// Whatever its lease was, it starts anew in full (R3).
func (l *leases) adopt(node id.ID, status *modelv1.NodeStatus) {
	if _, ok := l.nodes[node]; ok {
		return
	}
	if status == nil {
		status = &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_UNKNOWN}
	}
	allowed := l.full
	if status.GetFarewell() == modelv1.Farewell_FAREWELL_RESTARTING {
		allowed = max(l.full, l.grace)
	}
	l.nodes[node] = &lease{status: status, allowed: allowed}
}

// forget drops a node whose record is gone.
func (l *leases) forget(node id.ID) { delete(l.nodes, node) }

// hear takes in what a session told. It reports whether the word counted: a
// node that has no record, or an older session of a node, is no news (R2).
func (l *leases) hear(h heard, now time.Time) bool {
	n, ok := l.nodes[h.node]
	if !ok || !newest(n.status, h) || (h.session == n.closed && h.session != 0 && bytes.Equal(h.boot, n.status.GetBoot())) {
		return false
	}
	if h.ended {
		l.end(n, h, now)
		return true
	}
	s := n.status
	fresh := !bytes.Equal(s.GetBoot(), h.boot) || s.GetSession() != h.session ||
		s.GetState() != modelv1.NodeState_NODE_STATE_READY || s.GetObservedAddress() != h.address
	if fresh {
		rebooted := n.booted(h.boot, now)
		n.set(&modelv1.NodeStatus{
			State:           modelv1.NodeState_NODE_STATE_READY,
			Message:         n.suspicion(),
			Boot:            h.boot,
			Session:         h.session,
			ObservedAddress: h.address,
			RebootedAt:      rebooted,
		})
	}
	n.live, n.waived = true, false
	n.unheard, n.allowed = int(h.age/leaseTick), l.full
	return true
}

// maxFormer is how many former boot ids of a node are remembered.
const maxFormer = 8

// booted notes the boot id of a new session, and returns since when the node has
// it. One that was left for another and comes back proves two machines with one
// identity: a clone (R17).
func (n *lease) booted(boot []byte, now time.Time) (since int64) {
	was := n.status.GetBoot()
	if len(was) == 0 || bytes.Equal(was, boot) {
		return n.status.GetRebootedAt()
	}
	if slices.ContainsFunc(n.former, func(b []byte) bool { return bytes.Equal(b, boot) }) {
		n.clone = true
	}
	n.former = append(n.former, was)
	n.former = n.former[max(0, len(n.former)-maxFormer):]
	return now.UnixNano()
}

// suspicion is what is said of a node that seems to have been cloned.
func (n *lease) suspicion() string {
	if !n.clone {
		return ""
	}
	return "two machines take turns with this node's identity: one is a clone of the other; remove the node and join both anew"
}

// newest reports whether h comes from the node's newest session or a newer one.
// The agent draws its counters upward for the life of its journal, so they
// order its sessions across reboots too; another kernel boot decides only
// where a journal was lost and the counter began again.
func newest(s *modelv1.NodeStatus, h heard) bool {
	if h.session >= s.GetSession() {
		return true
	}
	return !h.ended && len(s.GetBoot()) > 0 && !bytes.Equal(s.GetBoot(), h.boot)
}

// end takes in the end of the newest session: the node is Unknown at once and
// keeps its lease, unless it said what it was doing (R4).
func (l *leases) end(n *lease, h heard, now time.Time) {
	n.live, n.closed = false, h.session
	since := now.Add(-h.age).UnixNano()
	status := &modelv1.NodeStatus{
		State:           modelv1.NodeState_NODE_STATE_UNKNOWN,
		Message:         "session broken",
		LostSince:       since,
		Boot:            h.boot,
		Session:         h.session,
		ObservedAddress: n.status.GetObservedAddress(),
		Farewell:        h.farewell,
		RebootedAt:      n.status.GetRebootedAt(),
	}
	switch h.farewell {
	case modelv1.Farewell_FAREWELL_RESTARTING:
		status.Message = "daemon restarting"
		n.unheard, n.allowed = 0, max(l.full, l.grace)
	case modelv1.Farewell_FAREWELL_LEAVING:
		status.State, status.Message = modelv1.NodeState_NODE_STATE_DOWN, "node has left the swarm"
	case modelv1.Farewell_FAREWELL_HOST_DOWN:
		status.State, status.Message = modelv1.NodeState_NODE_STATE_DOWN, "host going down"
	}
	if n.status.GetState() == modelv1.NodeState_NODE_STATE_DOWN && h.farewell == 0 {
		return // it is Down already; a late word of its end changes nothing
	}
	n.set(status)
}

// tick lives through one tick: nodes unheard for half a lease become Unknown,
// those unheard for all of it Down. It returns how many losses the guard of R3
// has put off, for the log.
func (l *leases) tick(now time.Time) (deferred int) {
	var due []*lease
	expiring := 0
	for _, n := range l.nodes {
		if n.status.GetState() == modelv1.NodeState_NODE_STATE_DOWN {
			continue
		}
		n.unheard++
		if n.unheard*2 >= n.allowed {
			expiring++
			l.doubt(n, now)
		}
		if n.unheard >= n.allowed {
			due = append(due, n)
		}
	}
	if l.guard && expiring > 2 && expiring*2 > len(l.nodes) {
		for _, n := range due {
			if !n.waived {
				n.waived = true
				n.allowed += l.full
				deferred++
			}
		}
	}
	for _, n := range due {
		if n.unheard >= n.allowed {
			l.lose(n, now)
		}
	}
	return deferred
}

// doubt shows a node that should have been heard by now as Unknown.
func (l *leases) doubt(n *lease, now time.Time) {
	if n.status.GetState() != modelv1.NodeState_NODE_STATE_READY {
		return
	}
	s := cloneStatus(n.status)
	s.State, s.Message = modelv1.NodeState_NODE_STATE_UNKNOWN, "no heartbeat"
	s.LostSince = now.Add(-time.Duration(n.unheard) * leaseTick).UnixNano()
	n.set(s)
}

// lose declares a node Down; what it ran is replaced elsewhere from now on.
func (l *leases) lose(n *lease, now time.Time) {
	s := cloneStatus(n.status)
	if s.LostSince == 0 {
		s.LostSince = now.Add(-time.Duration(n.unheard) * leaseTick).UnixNano()
	}
	s.State, s.Message = modelv1.NodeState_NODE_STATE_DOWN, whyLost(s, now)
	n.live = false
	n.set(s)
}

// whyLost says why a node is Down: not that its session broke, which a node
// outlives, but for how long it was not heard.
func whyLost(s *modelv1.NodeStatus, now time.Time) string {
	since := time.Unix(0, s.GetLostSince())
	text := fmt.Sprintf("no beat for %v since %s", now.Sub(since).Round(time.Second), since.UTC().Format(time.RFC3339))
	if s.GetFarewell() == modelv1.Farewell_FAREWELL_RESTARTING {
		text += ", when its daemon said that it restarts"
	}
	return text
}

// changed returns the nodes whose status is to be committed, in order of id,
// and counts them as handed on.
func (l *leases) changed() []seen {
	var out []seen
	for node, n := range l.nodes {
		if n.dirty {
			n.dirty = false
			out = append(out, seen{node: node, status: n.status})
		}
	}
	slices.SortFunc(out, func(a, b seen) int { return cmp.Compare(a.node.String(), b.node.String()) })
	return out
}

// A seen is one node's status, to be committed.
type seen struct {
	node   id.ID
	status *modelv1.NodeStatus
}

func (n *lease) set(s *modelv1.NodeStatus) { n.status, n.dirty = s, true }

// cloneStatus copies a status one level deep: its byte fields are stone.
func cloneStatus(s *modelv1.NodeStatus) *modelv1.NodeStatus {
	return &modelv1.NodeStatus{
		State: s.GetState(), Message: s.GetMessage(), LostSince: s.GetLostSince(),
		Boot: s.GetBoot(), Session: s.GetSession(),
		ObservedAddress: s.GetObservedAddress(), Farewell: s.GetFarewell(), RebootedAt: s.GetRebootedAt(),
	}
}
