package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// election decides when this member campaigns. Raft's own timer is not used:
// it draws from a generator that cannot be seeded and it campaigns although
// the disk hangs. See docs/decisions.
type election struct {
	elapsed, timeout int    // ticks since the leader's last word, or our last campaign
	soon             int    // campaigns left that follow soon on the last
	begun            uint64 // campaigns since the core was made
	leaderless       int    // ticks without a leader
}

// contact remembers when members were last heard.
type contact struct {
	leader uint64            // tick of the leader's last word; 0 means never
	heard  map[uint64]uint64 // tick of a member's last word
	since  map[uint64]uint64 // tick since which it has been heard without a gap
	term   int               // ticks for which a word counts
}

// soonTries is how often a member that has lost its leader campaigns in quick
// succession before it falls back to the usual timeout. The other followers may
// learn of the loss a little later, and take no notice of one who asks for votes
// before; and two who campaign at once share them.
const soonTries = 6

// heartbeatTicks is how often a leader is heard of that has nothing to say, in ticks.
const heartbeatTicks = 2

// Tick moves the core's clock by one tick.
func (c *Core) Tick() {
	c.now++
	c.reads.tick()
	if c.state == raft.StateLeader {
		c.raw.Tick()
		if c.now%uint64(c.cfg.ElectionTicks) == 0 && (c.stalled() || c.cfg.Blind) {
			c.Transfer(whyStalled)
		}
		return
	}
	// Deprecated, but the only way to keep raft's own unseeded election timer still.
	// Counts for raft's lease and lets the core decide when to campaign.
	c.raw.TickQuiesced()
	c.despair()
	c.election.elapsed++
	if c.election.elapsed < c.election.timeout {
		return
	}
	if c.lead != 0 { // it has fallen silent just now
		c.election.soon = soonTries
	}
	c.campaign()
}

// despair ends as unknown what this member proposed when it led, once it has had
// no leader for as long as a word of one counts: only an entry of a later term
// could tell what became of it, and whoever waits may ask those that have a
// leader (R10).
func (c *Core) despair() {
	if c.lead != 0 {
		c.election.leaderless = 0
		return
	}
	if c.election.leaderless++; c.election.leaderless == c.contact.term {
		c.cfg.Fates.lose(ErrUnknown)
	}
}

// redraw starts the wait for the next election anew. It is a short one while
// tries are left: shortest for one that only asks whether it would be voted for,
// which costs nobody anything, and drawn for one whose votes may be shared. Each
// change of role and term on the way comes here.
func (c *Core) redraw() {
	c.election.elapsed = 0
	switch {
	case c.election.soon == 0:
		c.election.timeout = c.cfg.ElectionTicks + c.cfg.Rand.IntN(c.cfg.ElectionTicks)
	case c.state == raft.StatePreCandidate:
		c.election.timeout = 1 + c.cfg.Rand.IntN(2)
	default:
		c.election.timeout = 4 + c.cfg.Rand.IntN(5)
	}
}

// settled ends the hurry: there is a leader.
func (c *Core) settled() {
	if c.election.soon > 0 {
		c.election.soon = 0
		c.redraw()
	}
}

// campaign asks for votes if this member may lead and its disk answers.
func (c *Core) campaign() {
	c.election.soon = max(0, c.election.soon-1)
	c.redraw()
	if c.stalled() || !slices.Contains(c.conf.GetVoters(), c.cfg.RaftID) {
		return
	}
	c.election.begun++
	_ = c.raw.Campaign() // raft declines with changes unapplied; the next timeout tries again
	c.collect()
}

// alone reports whether this member is the only voter.
func (c *Core) alone() bool {
	v := c.conf.GetVoters()
	return len(v) == 1 && v[0] == c.cfg.RaftID && len(c.conf.GetVotersOutgoing()) == 0
}

// solitary reports whether this member leads a group of itself.
func (c *Core) solitary() bool {
	return c.state == raft.StateLeader && c.alone() && len(c.conf.GetLearners()) == 0
}

// stalled reports whether the oldest append has been under way for longer than
// an election timeout.
func (c *Core) stalled() bool {
	return len(c.appends) > 0 && c.now-c.appends[0].since >= uint64(c.cfg.ElectionTicks)
}

// PeerGone takes the hint that a member's process is dead. If it led, this
// member forgets it, so as to vote for others, and campaigns after 0 to 3 ticks.
func (c *Core) PeerGone(raftID uint64) {
	if raftID != c.lead || c.state != raft.StateFollower {
		return
	}
	_ = c.raw.ForgetLeader()
	c.collect()
	c.election.soon = soonTries
	c.election.elapsed, c.election.timeout = 0, c.cfg.Rand.IntN(4)
	if c.election.timeout == 0 {
		c.campaign()
	}
}

// Why a member hands leadership over by itself.
const (
	whyStalled = "its disk hangs"
	whyFull    = "its disk is nearly full"
	whyFailed  = "its log cannot be written"
	whyStops   = "it stops"
)

// Transfer hands leadership to the voter that is heard and has most of the
// log. It reports whether there is one. why, a few words about this member, goes
// along; it may be empty.
func (c *Core) Transfer(why string) bool {
	if c.state != raft.StateLeader {
		return false
	}
	c.why = why
	var best, match uint64
	c.raw.WithProgress(func(peer uint64, kind raft.ProgressType, pr tracker.Progress) {
		if peer != c.cfg.RaftID && kind == raft.ProgressTypePeer && c.active(peer) && (best == 0 || pr.Match > match) {
			best, match = peer, pr.Match
		}
	})
	if best != 0 {
		c.raw.TransferLeader(best)
	}
	return best != 0
}

// hear notes that a member spoke in this term.
func (c *Core) hear(m *raftpb.Message) {
	if m.GetTerm() != 0 && m.GetTerm() < c.term {
		return
	}
	from := m.GetFrom()
	if at, ok := c.contact.heard[from]; !ok || c.now-at > uint64(c.cfg.ElectionTicks) {
		c.contact.since[from] = c.now
	}
	c.contact.heard[from] = c.now
}

// active reports whether a member was heard within an election timeout.
func (c *Core) active(peer uint64) bool {
	at, ok := c.contact.heard[peer]
	return peer == c.cfg.RaftID || ok && c.now-at <= uint64(c.cfg.ElectionTicks)
}

// InContact reports whether this member is in contact with the quorum (R18).
func (c *Core) InContact() bool {
	if c.state == raft.StateLeader {
		n := 0
		for _, v := range c.conf.GetVoters() {
			at, ok := c.contact.heard[v]
			if v == c.cfg.RaftID || ok && c.now-at <= uint64(c.contact.term) {
				n++
			}
		}
		return n > len(c.conf.GetVoters())/2
	}
	return c.lead != 0 && c.contact.leader != 0 && c.now-c.contact.leader <= uint64(c.contact.term)
}

// Slept takes note that this process did not run for so long that nobody
// counts as heard. Leases and contact begin anew.
func (c *Core) Slept() {
	c.contact.leader = 0
	clear(c.contact.heard)
	clear(c.contact.since)
}
