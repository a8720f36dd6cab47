package manager

import (
	"context"

	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// RaftID is this member's.
func (m *Manager) RaftID() uint64 { return m.raft.Status().RaftID }

// Voters is how many members vote.
func (m *Manager) Voters() int { return len(m.raft.Status().Voters) }

// AwaitTenure returns when this manager does a leader's work.
func (m *Manager) AwaitTenure(ctx context.Context) error {
	return m.await(ctx, office{m}.IsLeader)
}

// AwaitVote returns when this manager votes and has applied that it does.
func (m *Manager) AwaitVote(ctx context.Context) error {
	return m.await(ctx, func() bool {
		return m.store.Snapshot().Member(m.RaftID()).GetVoter()
	})
}

// await waits until ok holds; it is asked whenever the status changes.
func (m *Manager) await(ctx context.Context, ok func() bool) error {
	for {
		changed := m.raft.Changed()
		if ok() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Describe fills in what "ctl info" shows of a manager without asking a quorum.
func (m *Manager) Describe(out *localv1.InfoResponse) {
	o, s := office{m}, m.raft.Status()
	out.Leader, out.Applied, out.OutOfContact = s.Leading, s.Applied, !s.InContact
	for _, v := range s.Voters {
		if v != s.RaftID && !o.answers(v) {
			name, since := o.missed(v)
			out.UnreachableManagers = append(out.UnreachableManagers, name)
			out.UnreachableSince = append(out.UnreachableSince, since.UnixNano())
		}
	}
	timing := m.raft.Timing()
	out.RaftTick, out.RaftHeartbeat, out.RaftElection = int64(timing.Tick), int64(timing.Heartbeat), int64(timing.Election)
	if s.Failed != nil {
		out.State, out.Error = localv1.State_STATE_ERROR, s.Failed.Error()
	}
}
