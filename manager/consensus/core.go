package consensus

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/invariant"
	"github.com/skep-project/skep/internal/sealed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// CoreConfig configures a Core. All fields are required but Applied and Blind.
type CoreConfig struct {
	// RaftID, Cluster and History say who this member is.
	RaftID  uint64
	Cluster id.ID
	// History is bound into what the member seals.
	History id.ID
	// Ring seals entries.
	Ring *sealed.Ring
	// Storage holds what is durable. The core reads it; whoever does the
	// Append work writes it.
	Storage *raft.MemoryStorage
	// Applied is the index that the Machine holds already, and Conf the
	// membership at it; nil means that of Storage's snapshot.
	Applied uint64
	Conf    *raftpb.ConfState
	// ElectionTicks is the shortest silence before an election.
	ElectionTicks int
	// ContactTicks is for how long a word of a peer counts as contact (R18).
	ContactTicks int
	// Rand draws election timeouts.
	Rand *rand.Rand
	// Salt is the random source of sealing.
	Salt io.Reader
	// Incarnation tells this run's reads from those of an earlier one.
	Incarnation uint64
	// Fates is told of every proposal that entered the log.
	Fates *Fates
	// Blind members store and vote and cannot read (R26): they hand leadership on.
	Blind bool
	// Log receives records.
	Log *slog.Logger
}

// A handover is a leader's word that this member is to lead.
type handover struct {
	by, term uint64
	why      string
}

// A Core is one member's consensus, stepped by hand: every method returns at
// once, and what is to be done comes out of Flush. It is for one goroutine.
type Core struct {
	cfg CoreConfig
	raw *raft.RawNode
	out Output

	now          uint64 // ticks lived
	term, vote   uint64 // as last seen in a Ready
	commit, last uint64
	lead         uint64
	state        raft.StateType
	conf         *raftpb.ConfState
	applied      uint64
	restored     uint64 // index of the newest snapshot a leader sent
	newest       uint64 // index of the newest membership change in the log, 0 if it is not known
	appliedTerm  uint64
	failed       error
	// why this member hands leadership over, and who last did so to it.
	why    string
	handed handover

	election election
	contact  contact
	queue    queue
	reads    reads
	appends  []*Append // handed out and not done, oldest first
	change   uint64    // index of the newest membership change proposed here
}

// NewCore returns the core of the member that storage remembers.
func NewCore(cfg CoreConfig) (*Core, error) {
	storage := &view{MemoryStorage: cfg.Storage, conf: cfg.Conf}
	hs, conf, err := storage.InitialState()
	if err != nil {
		return nil, fmt.Errorf("start the core: %w", err)
	}
	last, err := cfg.Storage.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("start the core: %w", err)
	}
	storage.c = &Core{
		cfg: cfg, term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit(), last: last,
		conf: proto.CloneOf(conf), applied: cfg.Applied,
		contact: contact{heard: map[uint64]uint64{}, since: map[uint64]uint64{}, term: cfg.ContactTicks},
		reads:   reads{incarnation: cfg.Incarnation},
	}
	c := storage.c
	_, c.newest = beforeNewest(0, storage.all())
	c.raw, err = raft.NewRawNode(&raft.Config{
		ID:                        cfg.RaftID,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             heartbeatTicks,
		Storage:                   storage,
		Applied:                   cfg.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  16 << 20,
		MaxUncommittedEntriesSize: 64 << 20,
		MaxInflightMsgs:           256,
		MaxInflightBytes:          8 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		StepDownOnRemoval:         true,
		DisableProposalForwarding: true,
		Logger:                    raftLog{cfg.Log},
	})
	if err != nil {
		return nil, fmt.Errorf("start the core: %w", err)
	}
	c.redraw()
	if c.alone() {
		c.campaign()
	}
	return c, nil
}

// Failed returns the error that ended this core: it must not be stepped on.
func (c *Core) Failed() error { return c.failed }

// Step takes a message from another member. What only this member may say to
// itself, and what raft would panic on, is dropped.
func (c *Core) Step(m *raftpb.Message) {
	if !fromPeer(m.GetType()) || m.GetFrom() == c.cfg.RaftID || m.GetFrom() == 0 {
		return
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgApp, raftpb.MsgSnap:
		if !c.fromLeader(m) {
			return
		}
		m = c.withProof(m)
	case raftpb.MsgReadIndex:
		c.collect() // raft may lead already
		if c.alone() && c.tooNewToRead() {
			return // the asker asks again
		}
	case raftpb.MsgTimeoutNow:
		if c.stalled() {
			return // a member whose disk hangs does not campaign (R22)
		}
		c.handed = handover{by: m.GetFrom(), term: m.GetTerm(), why: string(m.GetContext())}
	default:
	}
	// The errors are about messages that came too late or from strangers.
	_ = c.raw.Step(m)
	c.hear(m)
}

// explained gives the word that another is to lead the reason for it, for people:
// raft itself leaves the field empty and does not read it.
func (c *Core) explained(m *raftpb.Message) *raftpb.Message {
	if m.GetType() != raftpb.MsgTimeoutNow || c.why == "" {
		return m
	}
	m = proto.CloneOf(m)
	m.Context = []byte(c.why)
	return m
}

// withProof returns m with a commit index that covers what its entries prove
// committed: every membership change before the newest (see view.proven).
func (c *Core) withProof(m *raftpb.Message) *raftpb.Message {
	if at, _ := beforeNewest(c.newest, m.GetEntries()); at > m.GetCommit() && m.GetTerm() >= c.term {
		m = proto.CloneOf(m)
		m.Commit = new(at)
	}
	return m
}

// fromLeader notes the leader's word, and reports whether raft may be given m.
func (c *Core) fromLeader(m *raftpb.Message) bool {
	c.collect()
	if m.GetTerm() < c.term {
		return true
	}
	if m.GetType() == raftpb.MsgHeartbeat && m.GetCommit() > c.last {
		c.failed = fmt.Errorf("the leader knows that this member held entry %d, its log ends at %d: %w", m.GetCommit(), c.last, ErrRolledBack)
		return false
	}
	c.settled()
	c.election.elapsed = 0
	c.contact.leader = c.now
	return true
}

func fromPeer(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgSnap,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow,
		raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return true
	default:
		return false
	}
}

// Appended takes note that a is durable and stored. Appends end in order.
func (c *Core) Appended(a *Append) {
	invariant.Check(len(c.appends) > 0 && c.appends[0] == a, "appends end in the order they were handed out")
	c.appends = c.appends[1:]
	for _, m := range a.own {
		_ = c.raw.Step(m)
	}
}

// Applied takes note that a was applied, and makes the membership changes that
// the Machine accepted.
func (c *Core) Applied(a *Apply, changes []Accepted) {
	c.collect()
	for _, ch := range changes {
		if ch.index <= c.restored {
			continue // raft has the membership of a later snapshot already; found by integration/sim
		}
		c.conf = c.raw.ApplyConfChange(ch.change)
		err := c.conf.Equivalent(ch.conf)
		invariant.Check(err == nil, "raft and the applier know one membership: %v", err)
		c.out.Soft = true
		if c.alone() && c.state == raft.StateFollower {
			c.election.timeout = 0
		}
	}
	if n := len(a.Entries); n > 0 {
		c.applied = max(c.applied, a.Entries[n-1].GetIndex())
		if t := a.Entries[n-1].GetTerm(); t != c.appliedTerm {
			c.appliedTerm, c.out.Soft = t, true
		}
	}
	_ = c.raw.Step(a.reply)
}

// ReportUnreachable says that messages to a member were lost. Until it is heard
// again it does not count as there.
func (c *Core) ReportUnreachable(raftID uint64) {
	delete(c.contact.heard, raftID)
	c.raw.ReportUnreachable(raftID)
}

// ReportSnapshot says how sending a snapshot to a member ended.
func (c *Core) ReportSnapshot(raftID uint64, ok bool) {
	if ok {
		c.raw.ReportSnapshot(raftID, raft.SnapshotFinish)
		return
	}
	c.raw.ReportSnapshot(raftID, raft.SnapshotFailure)
}

// Flush proposes and reads what waits and returns the work there is. clock is
// the wall clock in Unix nanoseconds.
func (c *Core) Flush(clock int64) Output {
	c.collect()
	c.propose(clock)
	c.startRead()
	c.collect()
	out := c.out
	c.out = Output{}
	return out
}

// collect moves raft's work into out, and its state into the core's own fields.
func (c *Core) collect() {
	for c.failed == nil && c.raw.HasReady() {
		rd := c.raw.Ready()
		c.noteState(rd)
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				c.takeAppend(m)
			case raft.LocalApplyThread:
				c.out.Apply = append(c.out.Apply, &Apply{Entries: m.GetEntries(), reply: m.GetResponses()[0]})
			default:
				c.out.Send = append(c.out.Send, c.explained(m))
			}
		}
		for _, rs := range rd.ReadStates {
			c.reads.confirmed(rs)
		}
	}
}

func (c *Core) noteState(rd raft.Ready) {
	if rd.Snapshot != nil && !raft.IsEmptySnap(rd.Snapshot) {
		c.last = rd.Snapshot.GetMetadata().GetIndex()
		c.restored = c.last
		c.conf = proto.CloneOf(rd.Snapshot.GetMetadata().GetConfState())
		c.out.Soft = true
	}
	if n := len(rd.Entries); n > 0 {
		c.last = rd.Entries[n-1].GetIndex()
		_, c.newest = beforeNewest(c.newest, rd.Entries)
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		if rd.HardState.GetTerm() != c.term || rd.HardState.GetVote() != c.vote {
			c.redraw()
		}
		c.out.Soft = c.out.Soft || rd.HardState.GetTerm() != c.term
		c.term, c.vote, c.commit = rd.HardState.GetTerm(), rd.HardState.GetVote(), rd.HardState.GetCommit()
	}
	if rd.SoftState != nil {
		c.noteRole(rd.SoftState)
	}
}

func (c *Core) noteRole(s *raft.SoftState) {
	before := c.state
	if s.Lead != c.lead {
		c.reads.again()
	}
	c.lead, c.state = s.Lead, s.RaftState
	if c.state != before {
		c.redraw()
	}
	if c.state == raft.StateLeader && before != raft.StateLeader {
		c.settled()
		c.queue.newTerm()
		c.change = 0
	}
	c.out.Soft = true
}

func (c *Core) takeAppend(m *raftpb.Message) {
	a := &Append{Entries: m.GetEntries(), Snapshot: m.GetSnapshot(), since: c.now}
	if m.Term != nil {
		a.HardState = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	for _, r := range m.GetResponses() {
		if r.GetTo() == c.cfg.RaftID {
			a.own = append(a.own, r)
		} else {
			a.Replies = append(a.Replies, r)
		}
	}
	c.appends = append(c.appends, a)
	c.out.Append = append(c.out.Append, a)
}
