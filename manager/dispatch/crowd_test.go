package dispatch

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestACrowdIsAskedForFewerBeats and is asked for the usual ones when it has gone.
func TestACrowdIsAskedForFewerBeats(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, _ *manager) {
		a := leader.open(ctx, t, 1, opening(1))
		beat := uint64(1)
		pulse := func(what string, period, lease time.Duration) {
			t.Helper()
			beat++
			if err := a.Send(&dispatchv1.SessionRequest{Beat: beat}); err != nil {
				t.Fatal(err)
			}
			a.until(what, func(m *dispatchv1.SessionResponse) bool {
				w := m.GetWelcome()
				return w.GetHeartbeatPeriod() == int64(period) && w.GetLease() == int64(lease)
			})
		}
		a.until("a welcome", func(m *dispatchv1.SessionResponse) bool {
			return m.GetWelcome().GetHeartbeatPeriod() == int64(2*time.Second)
		})
		others := make([]*session, crowd)
		for i := range others {
			others[i] = &session{node: id.ID{0: 9}, counter: 1, wake: make(chan struct{}, 1)}
			binary.BigEndian.PutUint32(others[i].node[12:], uint32(i))
			leader.sessions.begin(others[i])
		}
		pulse("the pulse of a crowd", 10*time.Second/3, 10*time.Second)
		c := proto.CloneOf(r.Snapshot().Cluster())
		c.Spec = &modelv1.ClusterSpec{Lease: int64(30 * time.Second), HeartbeatPeriod: int64(6 * time.Second)}
		r.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
		pulse("the pulse of a crowd with a longer lease", 10*time.Second, 30*time.Second)
		for _, x := range others[:crowd-calm] {
			leader.sessions.finish(x, time.Now())
		}
		if !leader.sessions.crowded.Load() {
			t.Error("a few that leave end a crowd")
		}
		for _, x := range others[crowd-calm:] {
			leader.sessions.finish(x, time.Now())
		}
		pulse("what the operator asks for", 6*time.Second, 30*time.Second)
	})
}

// TestANodeHearsOfItsMembership though nothing else of it changes.
func TestANodeHearsOfItsMembership(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, _, follower *manager) {
		a := follower.open(ctx, t, 1, opening(1))
		a.until("the first set", func(m *dispatchv1.SessionResponse) bool { return m.GetAssignments() != nil })
		r.do(&logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: 7, Node: nodeN(1).Bytes(), Address: "10.0.0.1:2377"}}})
		a.until("a wish that names its member", func(m *dispatchv1.SessionResponse) bool { return m.GetWish().GetMember() == 7 })
	})
}

// TestAnAcknowledgementGoesWithTheNextAnswer or by itself when none comes.
func TestAnAcknowledgementGoesWithTheNextAnswer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, _, follower *manager) {
		r.service()
		r.task(10, 1)
		a := follower.open(ctx, t, 1, opening(1))
		report := func(sequence, beat uint64, state modelv1.TaskState) (*dispatchv1.SessionResponse, time.Duration) {
			t.Helper()
			began := time.Now()
			for _, req := range []*dispatchv1.SessionRequest{
				{Reports: &dispatchv1.Reports{Sequence: sequence, Reports: []*dispatchv1.TaskReport{
					{Task: nodeN(10).Bytes(), Status: &modelv1.TaskStatus{State: state}}}}},
				{Beat: beat},
			} {
				synctest.Wait()
				if req.GetReports() == nil && req.GetBeat() == 0 {
					continue
				}
				if err := a.Send(req); err != nil {
					t.Fatal(err)
				}
			}
			m := a.until("the acknowledgement", func(m *dispatchv1.SessionResponse) bool { return m.GetReports() == sequence })
			return m, time.Since(began)
		}
		if m, took := report(1, 2, modelv1.TaskState_TASK_STATE_PREPARING); m.GetBeat() != 2 || took >= ackPace {
			t.Errorf("after %v it goes with %v, want the answer to the beat", took, m)
		}
		if m, took := report(2, 0, modelv1.TaskState_TASK_STATE_RUNNING); m.GetBeat() != 0 || took > ackPace+time.Second {
			t.Errorf("without a beat it comes after %v, want %v", took, ackPace)
		}
	})
}
