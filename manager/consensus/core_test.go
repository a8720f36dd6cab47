package consensus

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// bench is a group of cores whose disks and network are moved by hand.
type bench struct {
	t     *testing.T
	cores map[uint64]*Core
	disks map[uint64]*raft.MemoryStorage
	apply map[uint64]*Applier
	held  map[uint64]bool // members whose disks hang
	dark  map[uint64]bool // members that nobody hears
	todo  map[uint64][]*Append
}

func newBench(t *testing.T, members ...uint64) *bench {
	t.Helper()
	b := &bench{
		t: t, cores: map[uint64]*Core{}, disks: map[uint64]*raft.MemoryStorage{}, apply: map[uint64]*Applier{},
		held: map[uint64]bool{}, dark: map[uint64]bool{}, todo: map[uint64][]*Append{},
	}
	ring, cluster, history := sealed.NewRing(), id.New(), id.New()
	for _, m := range members {
		s := raft.NewMemoryStorage()
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: members, AutoLeave: new(false)}}}
		if err := errors.Join(s.ApplySnapshot(snap), s.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))})); err != nil {
			t.Fatal(err)
		}
		fates := &Fates{}
		a := NewApplier(&ledger{}, ring, cluster, history, fates)
		a.index, a.term, a.conf = 1, 1, proto.CloneOf(snap.GetMetadata().GetConfState())
		c, err := NewCore(CoreConfig{
			RaftID: m, Cluster: cluster, History: history, Ring: ring, Storage: s, Applied: 1, ElectionTicks: 12, ContactTicks: 40,
			Rand: rand.New(rand.NewPCG(m, 1)), Salt: rand.NewChaCha8([32]byte{}), Fates: fates, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.cores[m], b.disks[m], b.apply[m] = c, s, a
	}
	return b
}

// settle moves messages and disks until nothing is left to do.
func (b *bench) settle() {
	b.t.Helper()
	for busy := true; busy; {
		busy = false
		for _, m := range b.members() {
			c := b.cores[m]
			out := c.Flush(1)
			b.todo[m] = append(b.todo[m], out.Append...)
			busy = b.deliver(m, out.Send) || busy
			for _, a := range out.Apply {
				b.applyAll(m, a)
				busy = true
			}
			for len(b.todo[m]) > 0 && !b.held[m] {
				a := b.todo[m][0]
				b.todo[m] = b.todo[m][1:]
				if err := a.Store(b.disks[m]); err != nil {
					b.t.Fatal(err)
				}
				b.deliver(m, a.Replies)
				c.Appended(a)
				busy = true
			}
		}
	}
}

func (b *bench) deliver(from uint64, msgs []*raftpb.Message) bool {
	for _, m := range msgs {
		if to := b.cores[m.GetTo()]; to != nil && !b.dark[from] && !b.dark[m.GetTo()] {
			to.Step(proto.CloneOf(m))
		}
	}
	return len(msgs) > 0
}

func (b *bench) applyAll(m uint64, a *Apply) {
	b.t.Helper()
	var changes []Accepted
	for _, e := range a.Entries {
		accepted, err := b.apply[m].Apply(e)
		if err != nil {
			b.t.Fatal(err)
		}
		if accepted != nil {
			changes = append(changes, *accepted)
		}
	}
	b.cores[m].Applied(a, changes)
}

func (b *bench) members() []uint64 {
	var out []uint64
	for m := range b.cores {
		out = append(out, m)
	}
	slices.Sort(out)
	return out
}

func (b *bench) tick(n int) {
	b.t.Helper()
	for range n {
		for _, m := range b.members() {
			b.cores[m].Tick()
		}
		b.settle()
	}
}

// elect makes m the leader.
func (b *bench) elect(m uint64) *Core {
	b.t.Helper()
	b.cores[m].campaign()
	b.settle()
	if st := b.cores[m].Status(); !st.Tenured {
		b.t.Fatalf("member %d does not lead: %+v", m, st)
	}
	return b.cores[m]
}

func TestALeaderWhoseDiskHangsHandsOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	c := b.elect(1)
	b.tick(3)
	b.held[1] = true
	p := NewProposal([]byte("x"))
	c.Propose(p)
	b.tick(40)
	if c.Status().Leading || c.Status().Leader == 0 || c.Status().Leader == 1 {
		t.Errorf("after 2 s with a hung disk: %+v", c.Status())
	}
	if r, ok := fate(p); ok {
		t.Errorf("the proposal has the end %v before this member can know it", r)
	}
	// And it does not campaign, whoever is gone.
	for m := range b.cores {
		b.dark[m] = m != 1
	}
	term := c.Status().Term
	b.tick(100)
	if got := c.Status().Term; got != term {
		t.Errorf("a member with a hung disk went from term %d to %d", term, got)
	}
	clear(b.held)
	clear(b.dark)
	b.tick(60)
	if r, ok := fate(p); !ok || r.Err != nil {
		t.Errorf("the proposal when the disk is back: %v %v, want applied: the others had it", r, ok)
	}
}

// TestALeaderThatIsCutOffDoesNotKeepItsCallersWaiting: what became of their
// proposals is known on the other side, to which they may turn.
func TestALeaderThatIsCutOffDoesNotKeepItsCallersWaiting(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	c := b.elect(1)
	b.tick(3)
	b.dark[1] = true
	p := NewProposal([]byte("x"))
	c.Propose(p)
	b.tick(12)
	if r, ok := fate(p); ok {
		t.Fatalf("the proposal has the end %v while its leader may yet be heard", r)
	}
	b.tick(80)
	if r, ok := fate(p); !ok || !errors.Is(r.Err, ErrUnknown) {
		t.Errorf("after 4 s in the dark the proposal has the end %v %v, want one that is unknown", r, ok)
	}
	b.dark[1] = false
	b.tick(60)
	if st := c.Status(); st.Leader == 0 || st.Applied != b.cores[2].Status().Applied {
		t.Errorf("back again: %+v", st)
	}
}

func TestAHintBringsTheElectionForward(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(3)
	b.dark[1] = true
	b.cores[2].PeerGone(1)
	b.cores[3].PeerGone(1)
	b.tick(5)
	if s := b.cores[2].Status(); s.Leader != 2 && s.Leader != 3 {
		t.Errorf("5 ticks after the hint: %+v", s)
	}
}

func TestAHintOutlivesASharedVote(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(3)
	b.dark[1], b.dark[3] = true, true
	c := b.cores[2]
	c.PeerGone(1)
	for ; c.election.soon > 1; b.tick(1) {
		if got := c.election.timeout; got > 8 {
			t.Errorf("with %d tries left the next campaign waits %d ticks, want 8 at most", c.election.soon, got)
		}
	}
	// A leader's word ends it.
	clear(b.dark)
	b.dark[1] = true
	b.tick(6)
	for m := uint64(2); m <= 3; m++ {
		if e := b.cores[m].election; e.soon != 0 || e.timeout < b.cores[m].cfg.ElectionTicks {
			t.Errorf("member %d has a leader and would campaign after %d ticks, with %d tries left", m, e.timeout, e.soon)
		}
	}
}

// TestAVoteRefusedTooSoonIsAskedForAgain: followers do not tick as one, so the
// first to miss its leader may be ahead of the patience of the others.
func TestAVoteRefusedTooSoonIsAskedForAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(3)
	b.dark[1] = true
	first, other := b.cores[2], b.cores[3]
	first.election.timeout, other.election.timeout = first.cfg.ElectionTicks, 2*first.cfg.ElectionTicks
	first.Tick() // a tick ahead
	for first.state == raft.StateFollower {
		b.tick(1)
	}
	if s := other.Status(); s.Leader != 1 {
		t.Fatalf("the first asked when the other had given its leader up as well: %+v", s)
	}
	b.tick(2)
	if s := other.Status(); s.Leader != 2 {
		t.Errorf("two ticks later: %+v, want 2 to lead", s)
	}
}

func TestAMemberThatForgotWhatItPromisedStops(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	c := b.cores[2]
	c.Step(&raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(4)), Commit: new(uint64(9)),
	})
	if err := c.Failed(); !errors.Is(err, ErrRolledBack) || !strings.Contains(err.Error(), "must rejoin") {
		t.Errorf("failed = %v, want ErrRolledBack", err)
	}
}

func TestContactEndsTwoSecondsAfterTheLastWord(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(3)
	for m, c := range b.cores {
		if !c.InContact() {
			t.Errorf("member %d is not in contact", m)
		}
	}
	b.dark[3] = true
	b.tick(45)
	if b.cores[3].InContact() || !b.cores[1].InContact() || !b.cores[2].InContact() {
		t.Error("the one in the dark must be out of contact, and it alone")
	}
	b.cores[2].Slept()
	if b.cores[2].InContact() {
		t.Error("a member that slept is in contact before it heard anybody")
	}
}

func TestAReadWaitsForAQuorumAndFollowsTheLeader(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(3)
	b.dark[1] = true
	r := NewRead()
	b.cores[1].ReadIndex(r)
	b.tick(8)
	select {
	case res := <-r.Done():
		t.Fatalf("a leader without its quorum read at %v", res)
	default:
	}
	b.tick(60) // the others elect another
	b.dark[1] = false
	b.tick(30)
	select {
	case res := <-r.Done():
		if res.Err != nil || res.Index == 0 {
			t.Errorf("read = %v", res)
		}
	default:
		t.Errorf("the read was not asked again: %+v", b.cores[1].Status())
	}
}

func TestOneChangeAtATimeAndNoneThatLosesTheQuorum(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	c := b.elect(1)
	b.tick(3)
	change := func(kind ChangeKind, m uint64, nonce string) *Proposal {
		p := NewProposal([]byte("change"))
		c.ProposeChange(Change{Kind: kind, RaftID: m}, []byte(nonce), p, 1)
		return p
	}
	first, second := change(AddLearner, 4, "a"), change(AddLearner, 5, "b")
	if r, ok := fate(second); !ok || !errors.Is(r.Err, ErrChangePending) {
		t.Errorf("a second change: %v %v, want ErrChangePending", r, ok)
	}
	b.settle()
	if r, ok := fate(first); !ok || r.Err != nil {
		t.Errorf("the first change: %v %v", r, ok)
	}
	if st := b.cores[2].Status(); !slices.Equal(st.Learners, []uint64{4}) {
		t.Errorf("the follower knows learners %v", st.Learners)
	}
	if r, _ := fate(change(Promote, 4, "c")); !errors.Is(r.Err, ErrRefused) {
		t.Errorf("promoting one that never answered: %v, want ErrRefused", r.Err)
	}
	b.dark[3] = true
	c.ReportUnreachable(3)
	if r, _ := fate(change(Remove, 2, "d")); !errors.Is(r.Err, ErrWouldLoseQuorum) || !strings.Contains(r.Err.Error(), "of 2 voters after it 1 answer, 2 are needed") {
		t.Errorf("removing a live voter beside a dead one: %v, want ErrWouldLoseQuorum with numbers", r.Err)
	}
	gone := change(Remove, 3, "e")
	b.settle()
	if r, ok := fate(gone); !ok || r.Err != nil {
		t.Errorf("removing the dead one: %v %v", r, ok)
	}
	// A change whose transaction conflicts does not happen, on no member.
	refused := NewProposal([]byte("no"))
	c.ProposeChange(Change{Kind: Remove, RaftID: 4}, []byte("f"), refused, 1)
	b.settle()
	if r, ok := fate(refused); !ok || !errors.Is(r.Err, errNo) {
		t.Errorf("a change that conflicts: %v %v", r, ok)
	}
	for _, m := range []uint64{1, 2} {
		if st := b.cores[m].Status(); !slices.Equal(st.Learners, []uint64{4}) || !slices.Equal(st.Voters, []uint64{1, 2}) {
			t.Errorf("member %d knows voters %v and learners %v", m, st.Voters, st.Learners)
		}
	}
}

func TestALogProvesTheChangesBeforeItsNewest(t *testing.T) {
	t.Parallel()
	log := func(from uint64, kinds string) []*raftpb.Entry {
		var out []*raftpb.Entry
		for i, k := range kinds {
			e := &raftpb.Entry{Index: new(from + uint64(i)), Type: raftpb.EntryNormal.Enum()}
			if k == 'c' {
				e.Type = raftpb.EntryConfChange.Enum()
			}
			out = append(out, e)
		}
		return out
	}
	for _, tt := range []struct {
		name           string
		known          uint64
		entries        []*raftpb.Entry
		before, newest uint64
	}{
		{"none", 0, log(5, "nnn"), 0, 0},
		{"one is not proven", 0, log(5, "ncn"), 0, 6},
		{"the second proves the first", 0, log(5, "ncncn"), 6, 8},
		{"a new one proves that of the log", 4, log(5, "ncn"), 4, 6},
		{"one that is written over proves nothing", 5, log(5, "ncn"), 0, 6},
		{"one that comes again", 6, log(5, "ncnc"), 6, 8},
	} {
		if b, n := beforeNewest(tt.known, tt.entries); b != tt.before || n != tt.newest {
			t.Errorf("%s: %d, %d; want %d, %d", tt.name, b, n, tt.before, tt.newest)
		}
	}
}
