package membership

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
)

// leastVoters remain after a dead manager is taken out. Below three a group
// tolerates no loss, and taking the dead one of three out would gain nothing (two
// of two must agree, as two of three had to) while its return would.
const leastVoters = 3

// A vigil counts for how long each voter has not been heard, in ticks that this
// leader has lived through: a leader that was paused wakes to find nobody dead
// of it, and a new tenure begins to count anew (R3).
type vigil map[uint64]int

// tick lives through one tick.
func (v vigil) tick(voters []Voter) {
	absent := make(map[uint64]bool, len(voters))
	for _, m := range voters {
		if absent[m.RaftID] = !m.Active; !m.Active {
			v[m.RaftID]++
		}
	}
	for m := range v {
		if !absent[m] {
			delete(v, m)
		}
	}
}

// dead returns the voter that is to be taken out now: of those unheard for at
// least after ticks the longest, if at least three voters remain and those heard
// are a quorum of them.
//
// So the failures that the group tolerates never become fewer by it. With 5
// voters of which 4 are heard it is one before (a quorum is 3) and one after (4
// of 4 are heard, a quorum is 3); with 3 of 5 it is none, then none (3 of 4),
// then one (3 of 3); with 3 of 4 it is none, then one.
func (v vigil) dead(voters []Voter, after int) (raftID uint64, found bool) {
	heard := 0
	for _, m := range voters {
		switch unheard := v[m.RaftID]; {
		case m.Active:
			heard++
		case unheard < after, found && (unheard < v[raftID] || unheard == v[raftID] && m.RaftID > raftID):
		default:
			raftID, found = m.RaftID, true
		}
	}
	remain := len(voters) - 1
	if remain < leastVoters || heard < remain/2+1 {
		return 0, false
	}
	return raftID, found
}

// watch counts a tick of who is not heard. One that comes late, because a change
// is under way or the leader was paused, is one all the same.
func (s *Server) watch() {
	s.change.Lock()
	defer s.change.Unlock()
	voters, _ := s.cfg.Group.Members()
	s.vigil.tick(voters)
}

// bury takes one dead manager out if the operator wants that. s.change is held.
func (s *Server) bury(ctx context.Context, snap *store.Snapshot) {
	after := time.Duration(snap.Cluster().GetSpec().GetDeadManagerRemoval())
	if after <= 0 {
		return
	}
	voters, _ := s.cfg.Group.Members()
	raftID, found := s.vigil.dead(voters, int((after+beat-1)/beat))
	m := snap.Member(raftID)
	node, err := id.FromBytes(m.GetNode())
	if !found || m == nil || err != nil {
		return
	}
	unheard := (time.Duration(s.vigil[raftID]) * beat).Truncate(time.Second)
	ctx, stop := context.WithTimeout(ctx, changeTimeout)
	defer stop()
	err = s.takeOut(ctx, m, fmt.Sprintf("taken out of the managers, which had not heard it for %v", unheard))
	s.say(ctx, m, err)
	if err != nil {
		return
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "dead manager taken out; its node is a worker when it is back",
		slog.String("node", node.String()), slog.String("addr", m.GetAddress()),
		slog.Duration("unheard", unheard), slog.Int("voters", len(voters)-1))
}
