package dispatch

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// maxHeld is how many batches of reports of one session may wait for their
// commit. A session that has as many is read no further until one is done.
const maxHeld = 64

// relayBytes is about how much of reports one message to the leader holds: a good deal
// less than what is taken of a message.
const relayBytes = 4 << 20

// beatPace is for how long a heartbeat waits for company on its way to the leader:
// a manager of a thousand sessions then wakes the leader, and is answered, a few times
// a second instead of hundreds of times. Its age goes along, so a lease is as exact.
// A quick pulse has less time: a lease may be three beats, and half of one is doubt.
const beatPace = 250 * time.Millisecond

// paceOf is how long beats wait at a heartbeat period.
func paceOf(period time.Duration) time.Duration { return min(beatPace, period/20) }

// crowd is how many sessions make a manager ask for fewer beats: more than a thousand
// a second are half of a core. Below calm it asks for the usual ones again.
const (
	crowd = 2_000
	calm  = 1_500
)

// ackPace is for how long an acknowledgement of reports waits to go with something
// else: as long as a node's next beat and its answer are away at most, usually. Nobody
// waits for it; what is not acknowledged when a stream breaks is reported again.
const ackPace = 2 * time.Second

// sessions is all that this manager's sessions have told and the leader has not
// yet counted.
type sessions struct {
	mu     sync.Mutex // guards the fields below; held for memory only
	byNode map[id.ID]*session
	dirty  map[*session]struct{}
	ended  []*dispatchv1.Liveness
	held   []held
	next   int    // index in held of the first that the present pipe was not sent
	last   uint64 // number of the newest batch
	closed string // why no session is taken, if none is
	paced  bool   // beats wait, and the uplink is woken when they have
	// unthanked are the sessions whose reports were committed since acknowledgements
	// last had waited long enough; they do so again soon if there is one.
	unthanked map[*session]struct{}

	// crowded says that there are so many that their beats would be most of the work.
	crowded atomic.Bool

	wake chan struct{} // capacity 1: the uplink has something to send
}

// held is a batch of reports kept until the leader has committed it (R5).
type held struct {
	session  *session
	number   uint64 // on the relay
	sequence uint64 // the agent's
	reports  []*dispatchv1.TaskReport
	bytes    int // of the reports
}

func newSessions() *sessions {
	return &sessions{
		byNode: make(map[id.ID]*session),
		dirty:  make(map[*session]struct{}),

		unthanked: make(map[*session]struct{}),
		wake:      make(chan struct{}, 1),
	}
}

// begin registers x as its node's session here, in place of an older one. It
// returns why it is refused, or "".
func (s *sessions) begin(x *session) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != "" {
		return s.closed
	}
	if old := s.byNode[x.node]; old != nil {
		if old.counter > x.counter && string(old.boot) == string(x.boot) {
			return replaced
		}
		s.succeed(x, old)
	}
	s.byNode[x.node] = x
	s.count()
	s.mark(x)
	return ""
}

// count sees whether the sessions are a crowd. s.mu is held.
func (s *sessions) count() {
	if n := len(s.byNode); n >= crowd {
		s.crowded.Store(true)
	} else if n < calm {
		s.crowded.Store(false)
	}
}

// replaced is why an older session ends.
const replaced = "a newer session of this node is open"

// succeed makes x the one that is told of in the place of old, which is kept in
// reserve until x has been counted. If old was not counted itself, what it had in
// reserve stays so. That of another boot is kept for nothing. s.mu is held.
func (s *sessions) succeed(x, old *session) {
	delete(s.dirty, old)
	switch {
	case string(old.boot) != string(x.boot):
		s.settle(old)
		old.end(dispatchv1.End_REASON_REPLACED, replaced)
	case old.former != nil:
		x.former, old.former = old.former, nil
		old.end(dispatchv1.End_REASON_REPLACED, replaced)
	default:
		x.former = old
	}
}

// settle ends what x has in reserve. s.mu is held.
func (s *sessions) settle(x *session) {
	if x.former != nil {
		x.former.end(dispatchv1.End_REASON_REPLACED, replaced)
		x.former = nil
	}
}

// counts notes that x's agent knows that the leader counts x.
func (s *sessions) counts(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(x)
}

// mark notes that the leader is to hear of x, if x is its node's newest. s.mu is
// held.
func (s *sessions) mark(x *session) {
	if s.byNode[x.node] != x {
		return
	}
	s.dirty[x] = struct{}{}
	signal(s.wake)
}

// finish takes x out; the leader hears that it ended, unless a newer one of the
// same node took its place here. If x was not counted yet, the one it was to
// replace goes on, under x's number: the leader may have heard of that already.
func (s *sessions) finish(x *session, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirty, x)
	newest := s.byNode[x.node]
	if newest != x {
		if newest != nil && newest.former == x {
			newest.former = nil
		}
		return
	}
	if f := x.former; f != nil {
		x.former, f.counter = nil, x.counter
		s.byNode[x.node] = f
		s.mark(f)
		return
	}
	delete(s.byNode, x.node)
	s.count()
	v := x.liveness(now)
	v.Ended, v.Description = true, nil
	s.ended = append(s.ended, v)
	signal(s.wake)
}

// beat notes a heartbeat of x, which waits for the given pace for others.
func (s *sessions) beat(x *session, req *dispatchv1.SessionRequest, pace time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.beat, x.beatAt, x.ahead = max(x.beat, req.GetBeat()), now, aheadOf(req.GetClock(), now)
	if s.byNode[x.node] != x {
		return
	}
	s.dirty[x] = struct{}{}
	if !s.paced {
		s.paced = true
		time.AfterFunc(pace, s.paceIsOver)
	}
}

func (s *sessions) paceIsOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paced = false
	signal(s.wake)
}

// describe notes what x said of its node.
func (s *sessions) describe(x *session, d *modelv1.NodeDescription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.description, x.described = d, false
	s.mark(x)
}

// farewell notes what x's node means by going.
func (s *sessions) farewell(x *session, f modelv1.Farewell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.farewell = f
	if newest := s.byNode[x.node]; newest != nil && newest.former == x {
		newest.farewell = f // it is the node that goes
	}
}

// report keeps a batch until it is committed.
func (s *sessions) report(x *session, r *dispatchv1.Reports) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.held = append(s.held, held{session: x, number: s.last, sequence: r.GetSequence(), reports: r.GetReports(), bytes: proto.Size(r)})
	signal(s.wake)
}

// whole is what a new desk hears first: every session, and every batch that no
// desk has acknowledged.
func (s *sessions) whole(now time.Time) *dispatchv1.RelayRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := &dispatchv1.RelayRequest{Complete: true, Clock: now.UnixNano()}
	for _, x := range s.byNode {
		x.described = false
		req.Liveness = append(req.Liveness, x.tell(now))
	}
	clear(s.dirty)
	s.next = 0
	s.attach(req)
	return req
}

// news is what the present desk has not heard, nil if that is nothing.
func (s *sessions) news(now time.Time) *dispatchv1.RelayRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirty) == 0 && len(s.ended) == 0 && s.next == len(s.held) {
		return nil
	}
	req := &dispatchv1.RelayRequest{Clock: now.UnixNano()}
	for x := range s.dirty {
		req.Liveness = append(req.Liveness, x.tell(now))
	}
	clear(s.dirty)
	s.attach(req)
	return req
}

// attach adds ended sessions to a message, and as many batches as it has room for.
// s.mu is held.
func (s *sessions) attach(req *dispatchv1.RelayRequest) {
	req.Liveness = append(req.Liveness, s.ended...)
	s.ended = nil
	for size := 0; s.next < len(s.held); s.next++ {
		h := s.held[s.next]
		if size += h.bytes; size > relayBytes && len(req.Reports) > 0 {
			signal(s.wake) // the rest comes next
			return
		}
		req.Reports = append(req.Reports, &dispatchv1.NodeReports{Node: h.session.node.Bytes(), Reports: h.reports})
		req.Sequence = h.number
	}
}

// heard takes in what the leader has counted and committed.
func (s *sessions) heard(resp *dispatchv1.RelayResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range resp.GetAccounted() {
		node, err := id.FromBytes(a.GetNode())
		if err != nil {
			continue
		}
		if x := s.byNode[node]; x != nil && x.counter == a.GetSession() {
			x.confirm(a.GetBeat())
		}
	}
	done := 0
	for done < s.next && s.held[done].number <= resp.GetSequence() {
		s.held[done].session.commit(s.held[done].sequence)
		s.thank(s.held[done].session)
		<-s.held[done].session.slots
		done++
	}
	clear(s.held[:done]) // or the array would remember it
	s.held = s.held[done:]
	s.next -= done
}

// thank has x acknowledge what was committed, by and by. s.mu is held.
func (s *sessions) thank(x *session) {
	if len(s.unthanked) == 0 {
		time.AfterFunc(ackPace, s.thankAll)
	}
	s.unthanked[x] = struct{}{}
}

func (s *sessions) thankAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.unthanked {
		x.thank()
	}
	clear(s.unthanked)
}

// close tells every session to go elsewhere and takes no new one.
func (s *sessions) close(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = why
	for _, x := range s.byNode {
		x.end(dispatchv1.End_REASON_STOPPING, why)
		if x.former != nil {
			x.former.end(dispatchv1.End_REASON_STOPPING, why)
		}
	}
}
