// Package sim steps a group of managers through faults in one goroutine.
//
// It owns a world of members (the real core, applier and store), a network that
// loses, delays, repeats and parts, and disks that hang and forget what was not
// synced. Everything is drawn from one seed, so a failure is replayed from it.
//
// Invariant, checked at every step: one leader a term; the same entry at the
// same index everywhere; a write that was acknowledged is at its index; one that
// was refused is nowhere; a read's index is no older than the writes
// acknowledged before it was asked.
package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Options say how hard a world is.
type Options struct {
	// Members is the number of voters at the start.
	Members int
	// Steps is how long the faults last; one step is one tick of raft.
	Steps int
	// Loss and Repeat are the chances of a message to be lost or to come twice.
	Loss, Repeat float64
	// Delay is the most steps that a message takes.
	Delay int
	// Crash, Stall, Part and Change are the chances, at each step, of a member
	// to crash, of a disk to hang, of the network to part, of the membership to
	// change.
	Crash, Stall, Part, Change float64
	// SnapshotEvery is the number of entries between snapshots.
	SnapshotEvery uint64
	// Blind makes the last member one that cannot read (R26).
	Blind bool
}

// World is one run.
type World struct {
	opt     Options
	rng     *rand.Rand
	now     int
	clock   int64
	cluster id.ID
	history id.ID
	ring    *sealed.Ring
	log     *slog.Logger

	members []*member
	net     []packet
	cut     map[[2]uint64]bool // pairs that do not hear each other
	healAt  int

	writes  []*write
	reads   []*read
	nextTx  uint64
	nextID  uint64
	acked   uint64 // the highest index acknowledged to anybody
	leaders map[uint64]uint64
	entries map[uint64][32]byte // hash of what was applied at each index
	found   map[uint64]uint64   // transaction → index of its entry
	states  map[uint64][32]byte // hash of the state at some indexes

	// Acked, Refused, Conflicted, Unknown and Read count ends.
	Acked, Refused, Conflicted, Unknown, Read int
	// Crashes, Snapshots and Changes count what happened.
	Crashes, Snapshots, Changes int
	err                         error
}

type packet struct {
	due  int
	msg  *raftpb.Message
	file []byte
}

type write struct {
	tx     uint64
	member *member
	life   int
	p      *consensus.Proposal
}

type read struct {
	floor  uint64
	member *member
	life   int
	r      *consensus.Read
}

// New returns the world of a seed.
func New(seed uint64, opt Options) *World {
	w := &World{
		opt: opt, rng: rand.New(rand.NewPCG(seed, 17)), clock: 1_700_000_000_000_000_000,
		ring: sealed.NewRing(), log: slog.New(slog.DiscardHandler), cut: map[[2]uint64]bool{},
		leaders: map[uint64]uint64{}, entries: map[uint64][32]byte{}, found: map[uint64]uint64{}, states: map[uint64][32]byte{},
	}
	binary.BigEndian.PutUint64(w.cluster[:], seed|1)
	binary.BigEndian.PutUint64(w.history[:], seed|2)
	var voters []uint64
	for range opt.Members {
		w.nextID++
		voters = append(voters, w.nextID)
	}
	for i, raftID := range voters {
		w.members = append(w.members, newMember(w, raftID, voters, opt.Blind && i == len(voters)-1))
	}
	return w
}

// fail notes the first broken invariant.
func (w *World) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("step %d: "+format, append([]any{w.now}, args...)...)
	}
}

// Run lives through the faults, then heals everything and waits for the members
// to agree. It returns the first broken invariant.
func (w *World) Run() error {
	for w.now < w.opt.Steps && w.err == nil {
		w.fault()
		w.load()
		w.step()
	}
	w.heal()
	w.settle()
	return w.err
}

// settle waits until a write through the leader is applied by all who live.
func (w *World) settle() {
	const patience = 3000
	for range patience {
		if w.err != nil {
			return
		}
		if w.now%20 == 0 {
			w.load()
		}
		w.step()
		if w.agreed() {
			w.checkEnds()
			return
		}
	}
	w.fail("the members do not agree %d steps after everything was healed:%s", patience, w.describe())
}

// agreed reports whether a leader holds office and every member of its group
// has applied all there is, with nothing on its way.
func (w *World) agreed() bool {
	l := w.leader()
	if l == nil || w.now < w.opt.Steps+100 {
		return false
	}
	st := l.core.Status()
	if !st.Tenured && !l.blind {
		return false
	}
	for _, raftID := range slices.Concat(st.Voters, st.Learners) {
		m := w.member(raftID)
		if m == nil || !m.alive() || m.applier.Index() != l.applier.Index() || l.applier.Index() < st.Committed {
			return false
		}
	}
	return true
}

func (w *World) leader() *member {
	var best *member
	for _, m := range w.members {
		if m.alive() && m.core.Status().Leading && (best == nil || m.core.Status().Term > best.core.Status().Term) {
			best = m
		}
	}
	return best
}

func (w *World) member(raftID uint64) *member {
	for _, m := range w.members {
		if m.id == raftID {
			return m
		}
	}
	return nil
}

// step lets one tick pass for everyone.
func (w *World) step() {
	w.now++
	w.clock += 50_000_000
	order := w.rng.Perm(len(w.members))
	for _, i := range order {
		if m := w.members[i]; m.alive() && w.rng.Float64() < 0.97 { // clocks differ
			m.core.Tick()
		}
	}
	w.deliver()
	for range 3 {
		for _, i := range order {
			w.members[i].work()
		}
	}
	for _, m := range w.members {
		w.checkLeader(m)
	}
	w.collect()
}

func (w *World) checkLeader(m *member) {
	if !m.alive() {
		return
	}
	if err := m.core.Failed(); err != nil {
		w.fail("member %d stopped: %v", m.id, err)
		return
	}
	st := m.core.Status()
	if !st.Leading {
		return
	}
	if other, ok := w.leaders[st.Term]; ok && other != m.id {
		w.fail("members %d and %d both lead in term %d", other, m.id, st.Term)
	}
	w.leaders[st.Term] = m.id
}

// deliver brings what is due.
func (w *World) deliver() {
	due := w.net
	w.net = nil
	for _, p := range due {
		if p.due > w.now {
			w.net = append(w.net, p)
			continue
		}
		to, from := w.member(p.msg.GetTo()), w.member(p.msg.GetFrom())
		lost := to == nil || !to.alive() || w.cut[pair(p.msg.GetFrom(), p.msg.GetTo())]
		if p.msg.GetType() == raftpb.MsgSnap && from != nil && from.alive() {
			from.core.ReportSnapshot(p.msg.GetTo(), !lost)
		}
		if lost {
			continue
		}
		to.receive(p)
	}
}

// send puts a message on the network.
func (w *World) send(m *raftpb.Message, file []byte) {
	copies := 1
	if w.faulty() {
		if w.rng.Float64() < w.opt.Loss {
			copies = 0
		} else if w.rng.Float64() < w.opt.Repeat {
			copies = 2
		}
	}
	if copies == 0 && m.GetType() == raftpb.MsgSnap {
		if from := w.member(m.GetFrom()); from.alive() {
			from.core.ReportSnapshot(m.GetTo(), false)
		}
	}
	for range copies {
		due := w.now
		if w.faulty() && w.opt.Delay > 0 {
			due += w.rng.IntN(w.opt.Delay + 1)
		}
		w.net = append(w.net, packet{due: due, msg: proto.CloneOf(m), file: file})
	}
}

func (w *World) faulty() bool { return w.now < w.opt.Steps }

func pair(a, b uint64) [2]uint64 { return [2]uint64{min(a, b), max(a, b)} }

// machine is the real store, and notes what it was given.
type machine struct {
	*store.Store
	w *World
}

// Apply checks that every member is given the same at one index.
func (m machine) Apply(index uint64, clock int64, txs [][]byte) []error {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, clock) // a hash takes everything
	for _, tx := range txs {
		_, _ = h.Write(tx)
	}
	m.w.applied(index, [32]byte(h.Sum(nil)), txs)
	errs := m.Store.Apply(index, clock, txs)
	if index%64 == 0 {
		m.w.state(index, m.Store)
	}
	return errs
}

// Encode writes the state as it is now.
func (m machine) Encode() func(io.Writer) error { return m.Store.Snapshot().Encode }

// state checks that every member has the same state at one index.
func (w *World) state(index uint64, s *store.Store) {
	h := sha256.New()
	if err := s.Snapshot().Encode(h); err != nil {
		w.fail("encode the state at %d: %v", index, err)
	}
	sum := [32]byte(h.Sum(nil))
	if known, ok := w.states[index]; ok && known != sum {
		w.fail("two members differ in state at index %d", index)
	}
	w.states[index] = sum
}

func (w *World) describe() string {
	out := ""
	for _, m := range w.members {
		if !m.alive() {
			out += fmt.Sprintf("\n  %d is down", m.id)
			continue
		}
		st := m.core.Status()
		out += fmt.Sprintf("\n  %d term %d leader %d committed %d applied %d voters %v learners %v", m.id, st.Term, st.Leader, st.Committed, m.applier.Index(), st.Voters, st.Learners)
	}
	return out
}
