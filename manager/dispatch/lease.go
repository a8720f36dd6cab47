package dispatch

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
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
	// shown is the generation of the certificate that the session was opened with.
	shown uint64
	// ahead is how far the node's clock is ahead of the one of manager by.
	ahead time.Duration
	by    id.ID
}

// A lease is what the leader knows of one node's life.
type lease struct {
	node   id.ID
	status *modelv1.NodeStatus // as committed or about to be
	state  modelv1.NodeState   // what status says
	// live says that the newest session is open, as far as is known.
	live bool
	// heard is the lived tick that its newest word is of, and allowed for how many
	// ticks after that the node may be silent.
	heard   int
	allowed int
	// former are the boots the node had before, newest last; a kernel never boots
	// with an old id again.
	former []boot
	// twin is the lived tick at which two machines last took turns with the node; it
	// counts as long as the status names the other of them.
	twin int
	// clocks is how far its clock was ahead at the last beats, of which there were told.
	clocks [maxClocks]time.Duration
	told   int
	// closed is the session that was heard to end; it does not come back.
	closed uint64
	// waived says that the guard of R3 has granted this loss one more lease.
	waived bool
}

// A boot is a machine as it was heard: the id of its kernel's boot, and its address.
type boot struct {
	id      []byte
	address string
}

// leases decides which nodes are alive. It is a stepped core: it has no clock
// and counts only the ticks it has lived through, so that a leader that was
// paused does not wake to find every lease past (R3).
//
// Invariant: a node is never Down before a whole lease has been lived through
// without a beat of its newest session, unless it said so itself (R4).
type leases struct {
	nodes map[id.ID]*lease
	// lived counts the ticks. next is the first at which a node may be due; until
	// then a tick looks at none of them, however many there are.
	lived, next int
	// dirty are the nodes whose status is to be committed.
	dirty map[id.ID]struct{}
	// lease and grace in ticks.
	full, grace int
	guard       bool
}

func newLeases(full time.Duration, guard bool) *leases {
	return &leases{
		nodes: make(map[id.ID]*lease),
		dirty: make(map[id.ID]struct{}),
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
	n := &lease{node: node, status: status, state: status.GetState(), heard: l.lived, allowed: allowed, twin: l.lived}
	l.nodes[node] = n
	l.expect(n)
}

// forget drops a node whose record is gone.
func (l *leases) forget(node id.ID) {
	delete(l.nodes, node)
	delete(l.dirty, node)
}

// set gives a node another status, which is to be committed.
func (l *leases) set(n *lease, s *modelv1.NodeStatus) {
	n.status, n.state = s, s.GetState()
	l.dirty[n.node] = struct{}{}
}

// expect sees to it that n is looked at in time.
func (l *leases) expect(n *lease) { l.next = min(l.next, n.due()) }

// due is the tick at which the silence of a node that is not Down changes what is
// said of it.
func (n *lease) due() int {
	if n.state == modelv1.NodeState_NODE_STATE_READY {
		return n.heard + (n.allowed+1)/2
	}
	return n.heard + n.allowed
}

// hear takes in what a session told. It reports whether the word counted: a
// node that has no record, or an older session of a node, is no news (R2).
func (l *leases) hear(h heard, now time.Time) bool {
	n, ok := l.nodes[h.node]
	if !ok || !l.newest(n, h) || (h.session == n.closed && h.session != 0 && bytes.Equal(h.boot, n.status.GetBoot())) {
		return false
	}
	if h.ended {
		l.end(n, h, now)
		return true
	}
	s := n.status
	fresh := !bytes.Equal(s.GetBoot(), h.boot) || s.GetSession() != h.session ||
		s.GetState() != modelv1.NodeState_NODE_STATE_READY || s.GetObservedAddress() != h.address || s.GetShown() != h.shown
	if fresh {
		rebooted := l.booted(n, h.boot, now)
		other := n.other(h.boot, l.lived)
		l.set(n, &modelv1.NodeStatus{
			State:           modelv1.NodeState_NODE_STATE_READY,
			Message:         suspicion(boot{h.boot, h.address}, other),
			Boot:            h.boot,
			Session:         h.session,
			ObservedAddress: h.address,
			RebootedAt:      rebooted,
			Shown:           h.shown,
			ClockAhead:      s.GetClockAhead(), ClockBy: s.GetClockBy(),
			TwinBoot: other.id, TwinAddress: other.address,
		})
	} else if len(s.GetTwinBoot()) > 0 && l.lived-n.twin > twinTicks {
		s = cloneStatus(s)
		s.Message, s.TwinBoot, s.TwinAddress = "", nil, ""
		l.set(n, s)
	}
	l.clock(n, h)
	n.live, n.waived = true, false
	n.heard, n.allowed = l.lived-int(h.age/leaseTick), l.full
	l.expect(n)
	return true
}

// maxClocks is of how many beats the one counts that blames a clock least: a beat
// may have been held up, or its manager's clock been set just then.
const maxClocks = 4

// clock notes how far a node's clock is off, if that is news: it begins or ends to be
// more than the tolerance, or has changed by a tenth and the tolerance.
func (l *leases) clock(n *lease, h heard) {
	n.clocks[n.told%maxClocks] = h.ahead
	n.told++
	was := time.Duration(n.status.GetClockAhead())
	for _, ahead := range n.clocks[:min(n.told, maxClocks)] {
		if ahead.Abs() < h.ahead.Abs() {
			h.ahead = ahead
		}
	}
	if h.ahead.Abs() <= rpc.ClockTolerance {
		h.ahead = 0
	}
	if h.ahead == was || h.ahead != 0 && was != 0 && (h.ahead-was).Abs() <= was.Abs()/10+rpc.ClockTolerance {
		return
	}
	s := cloneStatus(n.status)
	s.ClockAhead, s.ClockBy = int64(h.ahead), nil
	if h.ahead != 0 {
		s.ClockBy = h.by.Bytes()
	}
	l.set(n, s)
}

// maxFormer is how many former boots of a node are remembered, and twinTicks how long
// the same one must have been heard alone until the other counts as gone.
const maxFormer = 8

var twinTicks = ticks(10 * time.Minute)

// booted notes the boot id of a new session, and returns since when the node has
// it. One that was left for another and comes back proves two machines with one
// identity: a clone (R17).
func (l *leases) booted(n *lease, now []byte, at time.Time) (since int64) {
	was := n.status.GetBoot()
	if len(was) == 0 || bytes.Equal(was, now) {
		return n.status.GetRebootedAt()
	}
	back := slices.ContainsFunc(n.former, func(b boot) bool { return bytes.Equal(b.id, now) })
	if back || bytes.Equal(now, n.status.GetTwinBoot()) {
		n.twin = l.lived
		n.status = cloneStatus(n.status)
		n.status.TwinBoot = now // one of the two, whichever
	}
	n.former = slices.DeleteFunc(n.former, func(b boot) bool { return bytes.Equal(b.id, was) })
	n.former = append(n.former, boot{was, n.status.GetObservedAddress()})
	n.former = n.former[max(0, len(n.former)-maxFormer):]
	return at.UnixNano()
}

// other is the machine that takes turns with the one of boot now; zero if none does,
// or has not for long.
func (n *lease) other(now []byte, lived int) boot {
	if len(n.status.GetTwinBoot()) == 0 || lived-n.twin > twinTicks {
		return boot{}
	}
	for _, b := range slices.Backward(n.former) {
		if !bytes.Equal(b.id, now) {
			return b
		}
	}
	if b := n.status; !bytes.Equal(b.GetTwinBoot(), now) { // as the leader before this one knew
		return boot{b.GetTwinBoot(), b.GetTwinAddress()}
	}
	return boot{n.status.GetBoot(), n.status.GetObservedAddress()}
}

// suspicion is what is said of a node that seems to have been cloned: the same
// whichever of the two was heard last.
func suspicion(a, b boot) string {
	if len(b.id) == 0 {
		return ""
	}
	if bytes.Compare(a.id, b.id) > 0 {
		a, b = b, a
	}
	return fmt.Sprintf("two machines take turns with this node's identity: %s and %s; one is a clone of the other. It gets no new tasks "+
		"until only one has been heard for 10 minutes: shut the clone down, or void both with \"ctl node update --revoke\" and accept one", a, b)
}

// String names a machine for people.
func (b boot) String() string {
	host, _, err := net.SplitHostPort(b.address)
	if err != nil {
		host = b.address
	}
	return fmt.Sprintf("the one at %s (boot %.8s)", host, bootText(b.id))
}

// bootText is a boot id as people read it: in hex, as the kernel shows it.
func bootText(id []byte) string { return hex.EncodeToString(id) }

// newest reports whether h comes from the node's newest session or a newer one.
// The agent draws its counters upward for the life of its journal, so they
// order its sessions across reboots too; another kernel boot decides only
// where a journal was lost and the counter began again, or of two machines with one
// journal. It does so only if it has spoken since the present one did: a manager that has not
// noticed yet that a host died tells a new leader of that host's last session, too,
// and that is neither a reboot nor a clone.
func (l *leases) newest(n *lease, h heard) bool {
	s := n.status
	if h.session >= s.GetSession() {
		return true
	}
	said := l.lived - int(h.age/leaseTick)
	return !h.ended && len(s.GetBoot()) > 0 && !bytes.Equal(s.GetBoot(), h.boot) && said >= n.heard
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
		Shown:           n.status.GetShown(),
		ClockAhead:      n.status.GetClockAhead(), ClockBy: n.status.GetClockBy(),
		TwinBoot: n.status.GetTwinBoot(), TwinAddress: n.status.GetTwinAddress(),
	}
	switch h.farewell {
	case modelv1.Farewell_FAREWELL_RESTARTING:
		status.Message = "daemon restarting"
		n.heard, n.allowed = l.lived, max(l.full, l.grace)
	case modelv1.Farewell_FAREWELL_LEAVING:
		status.State, status.Message = modelv1.NodeState_NODE_STATE_DOWN, "node has left the swarm"
	case modelv1.Farewell_FAREWELL_HOST_DOWN:
		status.State, status.Message = modelv1.NodeState_NODE_STATE_DOWN, "host going down"
	}
	if n.state == modelv1.NodeState_NODE_STATE_DOWN && h.farewell == 0 {
		return // it is Down already; a late word of its end changes nothing
	}
	l.set(n, status)
	l.expect(n)
}

// tick lives through one tick: nodes unheard for half a lease become Unknown,
// those unheard for all of it Down. It returns how many losses the guard of R3
// has put off, for the log.
func (l *leases) tick(now time.Time) (deferred int) {
	l.lived++
	if l.lived < l.next {
		return 0
	}
	var due []*lease
	expiring := 0
	for _, n := range l.nodes {
		if n.state == modelv1.NodeState_NODE_STATE_DOWN {
			continue
		}
		unheard := l.lived - n.heard
		if unheard*2 >= n.allowed {
			expiring++
			l.doubt(n, now)
		}
		if unheard >= n.allowed {
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
		if l.lived-n.heard >= n.allowed {
			l.lose(n, now)
		}
	}
	l.plan()
	return deferred
}

// plan sets when nodes are looked at next.
func (l *leases) plan() {
	l.next = math.MaxInt
	for _, n := range l.nodes {
		if n.state != modelv1.NodeState_NODE_STATE_DOWN {
			l.expect(n)
		}
	}
}

// doubt shows a node that should have been heard by now as Unknown.
func (l *leases) doubt(n *lease, now time.Time) {
	if n.state != modelv1.NodeState_NODE_STATE_READY {
		return
	}
	s := cloneStatus(n.status)
	s.State, s.Message = modelv1.NodeState_NODE_STATE_UNKNOWN, "no heartbeat"
	s.LostSince = now.Add(-l.silence(n)).UnixNano()
	l.set(n, s)
}

// lose declares a node Down; what it ran is replaced elsewhere from now on.
func (l *leases) lose(n *lease, now time.Time) {
	s := cloneStatus(n.status)
	if s.LostSince == 0 {
		s.LostSince = now.Add(-l.silence(n)).UnixNano()
	}
	s.State, s.Message = modelv1.NodeState_NODE_STATE_DOWN, whyLost(s, now)
	n.live = false
	l.set(n, s)
}

// silence is for how long nothing was heard of n, as far as this was lived through.
func (l *leases) silence(n *lease) time.Duration { return time.Duration(l.lived-n.heard) * leaseTick }

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
	if len(l.dirty) == 0 {
		return nil
	}
	out := make([]seen, 0, len(l.dirty))
	for node := range l.dirty {
		out = append(out, seen{node: node, status: l.nodes[node].status})
	}
	clear(l.dirty)
	slices.SortFunc(out, func(a, b seen) int { return id.Compare(a.node, b.node) })
	return out
}

// A seen is one node's status, to be committed.
type seen struct {
	node   id.ID
	status *modelv1.NodeStatus
}

// cloneStatus copies a status one level deep: its byte fields are stone.
func cloneStatus(s *modelv1.NodeStatus) *modelv1.NodeStatus {
	return &modelv1.NodeStatus{
		State: s.GetState(), Message: s.GetMessage(), LostSince: s.GetLostSince(),
		Boot: s.GetBoot(), Session: s.GetSession(),
		ObservedAddress: s.GetObservedAddress(), Farewell: s.GetFarewell(), RebootedAt: s.GetRebootedAt(),
		Shown:      s.GetShown(),
		ClockAhead: s.GetClockAhead(), ClockBy: s.GetClockBy(), TwinBoot: s.GetTwinBoot(), TwinAddress: s.GetTwinAddress(),
	}
}
