package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/membership"
)

// staleFor is how long a manager out of contact answers from what it has (R18).
const staleFor = 5 * time.Minute

// learnerLag is how many entries a learner may lack to be proposed as a voter;
// consensus looks closer.
const learnerLag = 1000

// office is the manager as the rooms that need consensus see it: who leads, the
// way there, and the group.
type office struct{ *Manager }

// IsLeader reports whether this manager may do a leader's work: it leads and has
// applied an entry of its own term, so it sees all that was acknowledged (R26).
func (o office) IsLeader() bool {
	s := o.raft.Status()
	return s.Leading && s.Tenured
}

// Leader says who leads, for dispatch.
func (o office) Leader() (self bool, leader id.ID, changed <-chan struct{}) {
	changed = o.raft.Changed() // taken first, so that no change is missed
	s := o.raft.Status()
	if s.Leading {
		return s.Tenured, o.cfg.Node, changed
	}
	if s.Leader == 0 {
		return false, id.ID{}, changed
	}
	node, err := o.nodeOf(s.Leader)
	if err != nil {
		return false, id.ID{}, changed
	}
	return false, node, changed
}

// Conn returns the kept connection to the leader, for forwarded calls.
func (o office) Conn(ctx context.Context) (*grpc.ClientConn, error) {
	for {
		changed := o.raft.Changed()
		s := o.raft.Status()
		if s.Leader != 0 && !s.Leading {
			node, err := o.nodeOf(s.Leader)
			if err != nil {
				return nil, rpc.Errorf(errdefs.ErrUnavailable, "the leader is not known here yet: %v", err)
			}
			return o.links.to(node, o.addressOf(s.Leader))
		}
		if s.Leading {
			// It was another's a moment ago: the caller looks again.
			return nil, rpc.Errorf(errdefs.ErrUnavailable, "this manager has begun to lead")
		}
		select {
		case <-ctx.Done():
			return nil, o.noLeader()
		case <-o.over:
			return nil, errStops()
		case <-changed:
		}
	}
}

// Following returns ctx for a call to the leader of the moment.
func (o office) Following(ctx context.Context) (context.Context, context.CancelFunc) {
	return o.reign.follow(ctx)
}

// Dial is Conn for dispatch.
func (o office) Dial(ctx context.Context) (*grpc.ClientConn, error) { return o.Conn(ctx) }

func (o office) addressOf(raftID uint64) string {
	if rec := o.store.Snapshot().Member(raftID); rec != nil {
		return rec.GetAddress()
	}
	for _, p := range o.cfg.Peers {
		if p.RaftID == raftID {
			return p.Address
		}
	}
	return ""
}

// errStops is the refusal of a manager that is not in the group any more because
// it stops: it is not the swarm that has no leader.
func errStops() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "this manager is stopping"), "try again in a moment, or on another manager")
}

// noLeader is the refusal that names who is missing.
func (o office) noLeader() error {
	select {
	case <-o.over:
		return errStops()
	default:
	}
	s := o.raft.Status()
	var missing []string
	reachable := 0
	for _, v := range s.Voters {
		if v == s.RaftID || o.answers(v) {
			reachable++
			continue
		}
		name, since := o.missed(v)
		if d := time.Since(since).Round(time.Second); d > 0 {
			name += fmt.Sprintf(" for %v", d)
		}
		missing = append(missing, name)
	}
	return rpc.RefuseNoLeader(missing, len(s.Voters)/2+1, reachable)
}

// answers reports whether a member is there, as far as this one can tell: its
// stream is up and, where there is no leader to hear from, it has said something
// of late. A dark host's stream stays up until its keepalive ends.
func (o office) answers(raftID uint64) bool {
	s := o.raft.Status()
	return o.transport.Connected(raftID) && (s.Leader != 0 && s.InContact || s.Reachable[raftID])
}

// memberName is a member as a person knows it.
func (o office) memberName(raftID uint64) string {
	snap := o.store.Snapshot()
	rec := snap.Member(raftID)
	node, err := id.FromBytes(rec.GetNode())
	if err != nil || rec == nil {
		return fmt.Sprintf("%016x", raftID)
	}
	return fmt.Sprintf("%s (%s)", hostname(snap.Node(node), node), rec.GetAddress())
}

// Barrier returns when this replica holds all that was committed before.
func (o office) Barrier(ctx context.Context) error {
	_, err := o.raft.ReadIndex(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, consensus.ErrNoQuorum), errors.Is(err, context.DeadlineExceeded):
		return o.noLeader()
	}
	return err
}

// InContact reports whether this manager hears the quorum (R18).
func (o office) InContact() bool { return o.raft.Status().InContact }

// StaleOK returns nil while answers from what this manager has are allowed.
func (o office) StaleOK(context.Context) error {
	if f := o.Freshness(); f.Silence > staleFor {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "this manager has not heard of a quorum for %v, and answers stale reads for %v only",
			f.Silence.Round(time.Second), staleFor), "bring managers back, or start a new cluster from this one: ctl swarm init --force-new-cluster")
	}
	return nil
}

// Freshness describes this replica.
func (o office) Freshness() rpc.Freshness {
	s := o.raft.Status()
	return rpc.Freshness{Applied: s.Applied, InContact: s.InContact, Silence: o.silence.since(s.InContact)}
}

// Self is this member's raft id.
func (o office) Self() uint64 { return o.raft.Status().RaftID }

// Members is the group as the leader sees it.
func (o office) Members() ([]membership.Voter, []membership.Learner) {
	s := o.raft.Status()
	var voters []membership.Voter
	for _, v := range s.Voters {
		voters = append(voters, membership.Voter{RaftID: v, Active: v == s.RaftID || s.Progress[v].Active})
	}
	var learners []membership.Learner
	for _, l := range s.Learners {
		pr := s.Progress[l]
		learners = append(learners, membership.Learner{RaftID: l, CaughtUp: pr.Active && pr.Match+learnerLag >= s.Committed})
	}
	return voters, learners
}

// AddLearner, Promote and Remove change the group and the records in one entry (R25).
func (o office) AddLearner(ctx context.Context, raftID uint64, address string, tx []byte) error {
	return o.raft.ChangeMembership(ctx, consensus.Change{Kind: consensus.AddLearner, RaftID: raftID, Address: address}, tx)
}

// Promote makes a learner a voter.
func (o office) Promote(ctx context.Context, raftID uint64, tx []byte) error {
	return o.raft.ChangeMembership(ctx, consensus.Change{Kind: consensus.Promote, RaftID: raftID}, tx)
}

// Remove takes a member out.
func (o office) Remove(ctx context.Context, raftID uint64, tx []byte) error {
	return o.raft.ChangeMembership(ctx, consensus.Change{Kind: consensus.Remove, RaftID: raftID}, tx)
}

// TransferLeadership returns when another member leads, who is told why.
func (o office) TransferLeadership(ctx context.Context, why string) error {
	return o.raft.TransferLeadership(ctx, why)
}
