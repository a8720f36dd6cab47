package membership

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Keep follows the records for a tenure: learners become voters, and members
// whose record wants a worker, or who are dead for longer than the operator
// allows, are taken out. It returns when ctx ends.
func (s *Server) Keep(ctx context.Context) error {
	w := s.cfg.Store.Watch(store.Key{Kind: logv1.Kind_KIND_NODE}, store.Key{Kind: logv1.Kind_KIND_MEMBER})
	defer w.Close()
	t := time.NewTicker(beat)
	defer t.Stop()
	s.change.Lock()
	s.vigil = vigil{} // a new tenure counts anew (R3)
	s.change.Unlock()
	for {
		w.Take() // what changed does not matter: the whole group is small
		looks := t.C
		if settled := s.round(ctx); settled && s.alone() {
			looks = nil // there is nobody to wait for or to miss; the next one's record wakes
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.C():
		case <-looks:
			s.watch()
		}
	}
}

// alone reports whether the records know one member and no more.
func (s *Server) alone() bool {
	members := 0
	for range s.cfg.Store.Snapshot().Members() {
		if members++; members > 1 {
			return false
		}
	}
	return true
}

// round makes at most one change: the next one is seen in the next round. It reports
// whether no member wants one.
func (s *Server) round(ctx context.Context) (settled bool) {
	s.change.Lock()
	defer s.change.Unlock()
	snap := s.cfg.Store.Snapshot()
	_, learners := s.cfg.Group.Members()
	caught := make(map[uint64]bool, len(learners))
	for _, l := range learners {
		caught[l.RaftID] = l.CaughtUp
	}
	settled = true
	for m := range snap.Members() {
		step, err := plan(snap, m, caught[m.GetRaftId()])
		if step == nil && err == nil {
			continue
		}
		settled = false
		if err == nil {
			ctx, stop := context.WithTimeout(ctx, changeTimeout)
			err = step(ctx, s, m)
			stop()
		}
		s.say(ctx, m, err)
		if err == nil {
			return false
		}
	}
	s.bury(ctx, snap)
	return settled
}

// plan returns what is to be done about one member, nil if nothing is.
func plan(snap *store.Snapshot, m *modelv1.Member, caughtUp bool) (func(context.Context, *Server, *modelv1.Member) error, error) {
	node, err := id.FromBytes(m.GetNode())
	if err != nil {
		return nil, err
	}
	n := snap.Node(node)
	switch {
	case n.GetSpec().GetRole() != modelv1.Role_ROLE_MANAGER:
		return func(ctx context.Context, s *Server, m *modelv1.Member) error { return s.remove(ctx, m) }, nil
	case !m.GetVoter() && caughtUp:
		return func(ctx context.Context, s *Server, m *modelv1.Member) error { return s.promote(ctx, m) }, nil
	default:
		return nil, nil
	}
}

// say logs how a change went; a refusal that stays the same is said once.
func (s *Server) say(ctx context.Context, m *modelv1.Member, err error) {
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		delete(s.refused, m.GetRaftId())
		return
	}
	if s.refused[m.GetRaftId()] != err.Error() {
		s.refused[m.GetRaftId()] = err.Error()
		level := slog.LevelWarn
		if errdefs.IsUnavailable(err) {
			level = slog.LevelDebug // only not yet: a learner that catches up, a hand-over
		}
		s.cfg.Log.LogAttrs(ctx, level, "membership change put off",
			slog.String("member", fmt.Sprintf("%x", m.GetRaftId())), slog.Any("err", err))
	}
}

// promote makes a learner a voter and its node a manager.
func (s *Server) promote(ctx context.Context, m *modelv1.Member) error {
	voter := proto.CloneOf(m)
	voter.Voter = true
	tx, err := encode(s.by(ctx), putMember(voter), putRole(m.GetNode(), modelv1.Role_ROLE_MANAGER))
	if err != nil {
		return err
	}
	if err := s.cfg.Group.Promote(ctx, m.GetRaftId(), tx); err != nil {
		return fmt.Errorf("make the learner at %s a voter: %w", m.GetAddress(), err)
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "manager votes", slog.String("addr", m.GetAddress()))
	return nil
}

// remove takes a member out and makes its node a worker. The leader itself hands
// leadership over first; whoever leads then takes it out.
func (s *Server) remove(ctx context.Context, m *modelv1.Member) error {
	if err := s.allowed(m.GetRaftId(), m.GetVoter()); err != nil {
		return err
	}
	if m.GetRaftId() == s.cfg.Group.Self() {
		if err := s.cfg.Group.TransferLeadership(ctx, "it is to be a worker"); err != nil {
			return fmt.Errorf("hand leadership over before leaving the group: %w", err)
		}
		return rpc.Errorf(errdefs.ErrUnavailable, "leadership was handed over; the new leader makes the change")
	}
	if err := s.takeOut(ctx, m, ""); err != nil {
		return err
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "manager taken out", slog.String("addr", m.GetAddress()))
	return nil
}

// takeOut makes a member's node a worker by the entry that takes the member out
// of the group; reason says why where no operator wished it.
func (s *Server) takeOut(ctx context.Context, m *modelv1.Member, reason string) error {
	role := putRole(m.GetNode(), modelv1.Role_ROLE_WORKER)
	role.GetNodeRole().Reason = reason
	tx, err := encode(s.by(ctx), &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{
		Kind: logv1.Kind_KIND_MEMBER, Key: binary.BigEndian.AppendUint64(nil, m.GetRaftId()),
	}}}, role)
	if err != nil {
		return err
	}
	if err := s.cfg.Group.Remove(ctx, m.GetRaftId(), tx); err != nil {
		return fmt.Errorf("take the member at %s out: %w", m.GetAddress(), err)
	}
	return nil
}

// CanLose returns nil if the group keeps its quorum without the node's vote, and
// the numbers otherwise.
func (s *Server) CanLose(node id.ID) error {
	m := s.cfg.Store.Snapshot().MemberByNode(node)
	if m == nil {
		return nil
	}
	return s.allowed(m.GetRaftId(), m.GetVoter())
}

// allowed checks the quorum after a member is taken out: voters heard lately
// must be more than half of the voters that remain.
func (s *Server) allowed(raftID uint64, voter bool) error {
	if !voter {
		return nil
	}
	voters, _ := s.cfg.Group.Members()
	remain, active := 0, 0
	for _, v := range voters {
		if v.RaftID == raftID {
			continue
		}
		remain++
		if v.Active {
			active++
		}
	}
	switch {
	case remain == 0:
		return rpc.Errorf(errdefs.ErrFailedPrecondition, "it is the last manager of the swarm")
	case active < remain/2+1:
		return rpc.Errorf(errdefs.ErrFailedPrecondition, "of the %d managers that would remain, %d can be reached and %d are needed for a quorum",
			remain, active, remain/2+1)
	}
	return nil
}
