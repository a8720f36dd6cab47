package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Status is what a member knows of its group.
type Status struct {
	// RaftID is this member's.
	RaftID uint64
	// Term, and who leads in it: a raft id, or 0.
	Term, Leader uint64
	// Leading is true while this member leads; Tenured once it has applied an
	// entry of its term (R26).
	Leading, Tenured bool
	// Committed and Applied are indexes.
	Committed, Applied uint64
	// Voters and Learners are raft ids, ascending.
	Voters, Learners []uint64
	// Member is false before this member is in the group and after it is removed.
	Member bool
	// InContact says that this member hears the quorum (R18).
	InContact bool
	// Progress is how far each member is; on the leader only.
	Progress map[uint64]Progress
	// Reachable says which members were heard within an election timeout, or
	// within three of them while there is no leader. A follower hears its leader
	// only; without one, whoever answers when it asks for votes.
	Reachable map[uint64]bool
	// HandedBy is who handed its leadership to this member, and HandedWhy the
	// reason it gave; on the leader only. 0: nobody did, this member took it.
	HandedBy  uint64
	HandedWhy string
	// Waiting is how many transactions wait to be put into an entry. Elections is
	// how often this member asked for votes since its log was read.
	Waiting   int
	Elections uint64
	// Failed says why the log cannot be written (R23); nil if it can.
	Failed error
}

// Progress is what a leader knows of one member.
type Progress struct {
	// Match is the last entry that the member is known to hold.
	Match uint64
	// Pending is the index of the snapshot it is being sent; 0 if none is.
	Pending uint64
	// State is raft's word: probe, replicate or snapshot.
	State string
	// Active says that it was heard within an election timeout.
	Active bool
	// Learner says that it does not vote.
	Learner bool
}

// Status returns what the core knows. Applied is the core's own, which may lag
// the machine's.
func (c *Core) Status() Status {
	s := Status{
		RaftID: c.cfg.RaftID, Term: c.term, Leader: c.lead, Leading: c.state == raft.StateLeader,
		Committed: c.commit, Applied: c.applied,
		Voters: sorted(c.conf.GetVoters()), Learners: sorted(c.conf.GetLearners()),
		InContact: c.InContact(), Reachable: map[uint64]bool{},
		Waiting: len(c.queue.waiting), Elections: c.election.begun,
	}
	s.Tenured = s.Leading && c.appliedTerm == c.term
	s.Member = slices.Contains(s.Voters, s.RaftID) || slices.Contains(s.Learners, s.RaftID)
	for _, p := range slices.Concat(s.Voters, s.Learners) {
		s.Reachable[p] = c.reachable(p)
	}
	if !s.Leading {
		return s
	}
	if c.handed.term+1 == c.term {
		s.HandedBy, s.HandedWhy = c.handed.by, c.handed.why
	}
	s.Progress = make(map[uint64]Progress, len(s.Reachable))
	c.raw.WithProgress(func(p uint64, kind raft.ProgressType, pr tracker.Progress) {
		s.Progress[p] = Progress{
			Match: pr.Match, Pending: pr.PendingSnapshot, State: pr.State.String(),
			Active: c.active(p), Learner: kind == raft.ProgressTypeLearner,
		}
	})
	return s
}

// A glance is what of a status changes with time alone or with what was applied,
// and is to be seen at once. The rest is either Soft or can wait for showPace.
type glance struct {
	contact, tenured bool
	reachable        int // members
}

func (c *Core) glance() glance {
	g := glance{contact: c.InContact(), tenured: c.state == raft.StateLeader && c.appliedTerm == c.term}
	for _, members := range [...][]uint64{c.conf.GetVoters(), c.conf.GetLearners()} {
		for _, p := range members {
			if c.reachable(p) {
				g.reachable++
			}
		}
	}
	return g
}

// reachable is active, with time for a round of votes while there is no leader:
// then members speak only when one of them asks.
func (c *Core) reachable(peer uint64) bool {
	if c.lead != 0 {
		return c.active(peer)
	}
	at, ok := c.contact.heard[peer]
	return peer == c.cfg.RaftID || ok && c.now-at <= 3*uint64(c.cfg.ElectionTicks)
}

// Conf returns the membership as the core has it. It is not to be changed.
func (c *Core) Conf() *raftpb.ConfState { return c.conf }

func sorted(ids []uint64) []uint64 {
	out := slices.Clone(ids)
	slices.Sort(out)
	return out
}
