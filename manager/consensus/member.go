package consensus

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// ChangeKind is what a membership change does to one member.
type ChangeKind int

// The membership changes there are.
const (
	// AddLearner adds a member that receives the log and does not vote.
	AddLearner ChangeKind = iota + 1
	// Promote makes a learner a voter.
	Promote
	// Remove takes a member, voter or learner, out of the group.
	Remove
)

// String names the kind.
func (k ChangeKind) String() string {
	switch k {
	case AddLearner:
		return "add learner"
	case Promote:
		return "promote"
	case Remove:
		return "remove"
	default:
		return fmt.Sprintf("change %d", int(k))
	}
}

// A Change is one step of membership.
type Change struct {
	Kind   ChangeKind
	RaftID uint64
	// Address is where an added member is reached: host:port. The leader's
	// transport uses it at once; the others learn it from the transaction.
	Address string
}

// behind is how many entries a learner may lack when it is promoted.
const behind = 1000

// ProposeChange proposes a change whose entry carries p's transaction, found
// again by nonce (R25). Like Propose it ends p at once or through Fates.
func (c *Core) ProposeChange(ch Change, nonce []byte, p *Proposal, clock int64) {
	c.collect()
	if err := c.checkChange(ch, p); err != nil {
		p.end(Result{Err: err})
		return
	}
	ctx, err := c.seal(&logv1.Entry{Sequence: c.queue.sequence, Clock: clock, Transactions: [][]byte{p.tx}, Nonce: nonce})
	if err != nil {
		p.end(Result{Err: fmt.Errorf("%w: %w", err, ErrRefused)})
		return
	}
	f := inFlight{term: c.term, sequence: c.queue.sequence, nonce: nonce, proposals: []*Proposal{p}}
	c.cfg.Fates.add(f)
	before := c.last
	if err := c.raw.ProposeConfChange(&raftpb.ConfChange{Type: ch.raft(), NodeId: &ch.RaftID, Context: ctx}); err != nil {
		c.cfg.Fates.drop(nonce, fmt.Errorf("leadership is being handed over: %w", ErrRefused))
		return
	}
	c.collect()
	// Raft puts an empty entry in its place if an earlier change may be unapplied.
	if a := c.appends; len(a) == 0 || c.last == before || !hasChange(a[len(a)-1].Entries) {
		c.cfg.Fates.drop(nonce, ErrChangePending)
		return
	}
	c.change = c.last
}

func hasChange(entries []*raftpb.Entry) bool {
	n := len(entries)
	return n > 0 && entries[n-1].GetType() == raftpb.EntryConfChange
}

func (ch Change) raft() *raftpb.ConfChangeType {
	switch ch.Kind {
	case AddLearner:
		return raftpb.ConfChangeAddLearnerNode.Enum()
	case Promote:
		return raftpb.ConfChangeAddNode.Enum()
	default:
		return raftpb.ConfChangeRemoveNode.Enum()
	}
}

// checkChange returns why a change may not be proposed now.
func (c *Core) checkChange(ch Change, p *Proposal) error {
	switch {
	case c.state != raft.StateLeader || c.cfg.Blind:
		return ErrNotLeader{Leader: c.lead}
	case len(p.tx) > EntryBytes:
		return fmt.Errorf("%d bytes, an entry holds %d: %w", len(p.tx), EntryBytes, ErrTooLarge)
	case c.change > c.applied, c.appliedTerm != c.term:
		return ErrChangePending
	}
	voter := slices.Contains(c.conf.GetVoters(), ch.RaftID)
	learner := slices.Contains(c.conf.GetLearners(), ch.RaftID)
	switch ch.Kind {
	case AddLearner:
		if ch.RaftID == 0 || voter || learner {
			return fmt.Errorf("%s %016x: it is a member already: %w", ch.Kind, ch.RaftID, errdefs.ErrAlreadyExists)
		}
	case Promote:
		if !learner {
			return fmt.Errorf("%s %016x: it is no learner: %w", ch.Kind, ch.RaftID, errdefs.ErrFailedPrecondition)
		}
		if err := c.caughtUp(ch.RaftID); err != nil {
			return err
		}
	case Remove:
		if !voter && !learner {
			return fmt.Errorf("%s %016x: it is no member: %w", ch.Kind, ch.RaftID, errdefs.ErrNotFound)
		}
	default:
		return fmt.Errorf("%s: no such change: %w", ch.Kind, errdefs.ErrInvalidArgument)
	}
	return c.keepsQuorum(ch)
}

// caughtUp says why a learner is not ready to vote: its log must be near the
// end and it must have been heard for a contact time (R25).
func (c *Core) caughtUp(peer uint64) error {
	var match uint64
	var state tracker.StateType
	c.raw.WithProgress(func(p uint64, _ raft.ProgressType, pr tracker.Progress) {
		if p == peer {
			match, state = pr.Match, pr.State
		}
	})
	if match+behind < c.commit || state != tracker.StateReplicate {
		return fmt.Errorf("promote %016x: it has entries up to %d of %d: %w", peer, match, c.commit, ErrRefused)
	}
	if !c.active(peer) || c.now-c.contact.since[peer] < uint64(c.contact.term) {
		return fmt.Errorf("promote %016x: it has not been heard for 2 s without a gap: %w", peer, ErrRefused)
	}
	return nil
}

// keepsQuorum counts the voters recently heard as they would be after ch.
func (c *Core) keepsQuorum(ch Change) error {
	voters := slices.Clone(c.conf.GetVoters())
	switch ch.Kind {
	case Promote:
		voters = append(voters, ch.RaftID)
	case Remove:
		voters = slices.DeleteFunc(voters, func(v uint64) bool { return v == ch.RaftID })
	default:
		return nil
	}
	active := 0
	for _, v := range voters {
		if c.active(v) {
			active++
		}
	}
	if need := len(voters)/2 + 1; active < need {
		return fmt.Errorf("%s %016x: of %d voters after it %d answer, %d are needed: %w", ch.Kind, ch.RaftID, len(voters), active, need, ErrWouldLoseQuorum)
	}
	return nil
}

// changed returns conf after a change, as every member computes it.
func changed(conf *raftpb.ConfState, cc *raftpb.ConfChange) *raftpb.ConfState {
	without := func(ids []uint64) []uint64 {
		return slices.DeleteFunc(slices.Clone(ids), func(x uint64) bool { return x == cc.GetNodeId() })
	}
	next := &raftpb.ConfState{Voters: without(conf.GetVoters()), Learners: without(conf.GetLearners()), AutoLeave: new(false)}
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode:
		next.Voters = append(next.Voters, cc.GetNodeId())
	case raftpb.ConfChangeAddLearnerNode:
		next.Learners = append(next.Learners, cc.GetNodeId())
	default:
	}
	slices.Sort(next.Voters)
	slices.Sort(next.Learners)
	return next
}
