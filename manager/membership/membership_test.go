package membership

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// group is a raft group whose every change is committed at once: the record's
// transaction goes with it, as consensus promises.
type group struct {
	log      *storetest.Log
	self     uint64
	voters   []Voter
	learners []Learner
	changes  []string
	handed   int
}

func (g *group) Self() uint64 { return g.self }
func (g *group) Members() ([]Voter, []Learner) {
	return slices.Clone(g.voters), slices.Clone(g.learners)
}
func (g *group) TransferLeadership(context.Context, string) error {
	g.handed++
	return nil
}

func (g *group) commit(ctx context.Context, what string, tx []byte) error {
	g.changes = append(g.changes, what)
	_, err := g.log.Propose(ctx, tx)
	return err
}

func (g *group) AddLearner(ctx context.Context, raftID uint64, _ string, tx []byte) error {
	g.learners = append(g.learners, Learner{RaftID: raftID})
	return g.commit(ctx, "add", tx)
}

func (g *group) Promote(ctx context.Context, raftID uint64, tx []byte) error {
	g.learners = slices.DeleteFunc(g.learners, func(l Learner) bool { return l.RaftID == raftID })
	g.voters = append(g.voters, Voter{RaftID: raftID, Active: true})
	return g.commit(ctx, "promote", tx)
}

func (g *group) Remove(ctx context.Context, raftID uint64, tx []byte) error {
	g.voters = slices.DeleteFunc(g.voters, func(v Voter) bool { return v.RaftID == raftID })
	g.learners = slices.DeleteFunc(g.learners, func(l Learner) bool { return l.RaftID == raftID })
	return g.commit(ctx, "remove", tx)
}

func nodeN(n byte) id.ID { return id.ID{15: n} }

// world is a leader's membership over a store with one manager, node 1, member 1.
type world struct {
	t     *testing.T
	store *store.Store
	log   *storetest.Log
	group *group
	*Server
	unreachable bool
	// given and kept are who was given the ring, and who said what he keeps.
	given        []id.ID
	kept         map[id.ID]*raftv1.KeptRequest
	refuseToGive error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, _, log := storetest.New()
	w := &world{t: t, store: s, log: log, kept: map[id.ID]*raftv1.KeptRequest{}, group: &group{log: log, self: 1, voters: []Voter{{RaftID: 1, Active: true}}}}
	w.Server = New(Config{
		Store: s, Group: w.group, Ring: func() *logv1.Ring { return &logv1.Ring{Active: 7} },
		Commit: func(ctx context.Context, tx []byte) error { _, err := log.Propose(ctx, tx); return err },
		Ping: func(context.Context, id.ID, string) error {
			if w.unreachable {
				return errors.New("connection refused")
			}
			return nil
		},
		Give: func(_ context.Context, node id.ID) error { w.given = append(w.given, node); return w.refuseToGive },
		Kept: func(_ context.Context, node id.ID, kept *raftv1.KeptRequest) error { w.kept[node] = kept; return nil },
		Log:  slog.New(slog.DiscardHandler),
	})
	w.node(1, modelv1.Role_ROLE_MANAGER)
	w.do(putMember(&modelv1.Member{RaftId: 1, Node: nodeN(1).Bytes(), Address: "10.0.0.1:2377", Voter: true}))
	return w
}

func (w *world) do(ops ...*logv1.Operation) {
	w.t.Helper()
	tx, err := encode(nil, ops...)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.log.Propose(w.t.Context(), tx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node(n byte, wants modelv1.Role) {
	w.t.Helper()
	w.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
		Id: nodeN(n).Bytes(), Spec: &modelv1.NodeSpec{Role: wants}, Role: modelv1.Role_ROLE_WORKER,
	}}})
}

func as(ctx context.Context, n byte) context.Context {
	return rpc.WithCaller(ctx, rpc.Caller{Kind: rpc.Node, Node: nodeN(n)})
}

// learn makes node n the learner raftID.
func (w *world) learn(n byte, raftID uint64) {
	w.t.Helper()
	if _, err := w.Ready(as(w.t.Context(), n), &raftv1.ReadyRequest{RaftId: raftID, Address: "10.0.0.2:2377"}); err != nil {
		w.t.Fatal(err)
	}
}

func TestTheRingIsHandedOverBeforeAnyChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	resp, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetRing().GetActive() != 7 || len(resp.GetPeers()) != 1 || len(w.group.changes) != 0 {
		t.Errorf("join = %v with changes %q, want the ring, one peer and no change", resp, w.group.changes)
	}
}

func TestWhoIsToBeAWorkerGetsNoRing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_WORKER)
	_, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377"})
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(rpc.HintOf(err), "node promote") {
		t.Errorf("join of a worker = %v (hint %q), want PermissionDenied and how it is promoted", err, rpc.HintOf(err))
	}
	if _, err := w.Ready(as(t.Context(), 2), &raftv1.ReadyRequest{RaftId: 22}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("ready of a worker = %v, want PermissionDenied", err)
	}
	if _, err := w.Join(t.Context(), &raftv1.JoinRequest{RaftId: 22, Address: "x"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("join of nobody = %v, want PermissionDenied", err)
	}
}

func TestAManagerThatCannotBeDialledBackIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.unreachable = true
	_, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "10.0.0.2:2377") {
		t.Errorf("join = %v, want FailedPrecondition that names the address", err)
	}
}

func TestAnOlderVersionIsRefusedInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: nodeN(9).Bytes(), FeatureLevel: 3}}})
	_, err := w.Join(as(t.Context(), 2), &raftv1.JoinRequest{
		RaftId: 22, Address: "10.0.0.2:2377", Hello: &rpcv1.Hello{Version: "v0.1.0", FeatureLevel: 2},
	})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "v0.1.0 knows features up to level 2, the swarm uses level 3") {
		t.Errorf("join = %v, want both levels", err)
	}
}

func TestAManagerOfASwarmWithFIPSModeMustSayThatItIsInIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: nodeN(99).Bytes(), Fips: true}}})
	w.node(2, modelv1.Role_ROLE_MANAGER)
	req := &raftv1.JoinRequest{RaftId: 22, Address: "10.0.0.2:2377", Hello: &rpcv1.Hello{}}
	_, err := w.Join(as(t.Context(), 2), req)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "FIPS 140-3") || rpc.HintOf(err) != rpc.FIPSHint || len(w.given) > 0 {
		t.Errorf("join without = %v (hint %q), %d rings given; want FailedPrecondition, what to do, and none", err, rpc.HintOf(err), len(w.given))
	}
	req.Hello.Fips = true
	if _, err := w.Join(as(t.Context(), 2), req); err != nil {
		t.Errorf("join with = %v", err)
	}
}

func TestReadyAskedTwiceChangesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.learn(2, 22)
	w.learn(2, 22)
	if !slices.Equal(w.group.changes, []string{"add"}) {
		t.Errorf("changes = %q, want one", w.group.changes)
	}
	if m := w.store.Snapshot().MemberByNode(nodeN(2)); m.GetRaftId() != 22 || m.GetVoter() {
		t.Errorf("member = %v, want learner 22", m)
	}
}

func TestANewRaftIDTakesTheFormerOneOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.learn(2, 22)
	w.learn(2, 23)
	if !slices.Equal(w.group.changes, []string{"add", "remove", "add"}) {
		t.Errorf("changes = %q, want the former learner taken out first", w.group.changes)
	}
	if m := w.store.Snapshot().MemberByNode(nodeN(2)); m.GetRaftId() != 23 {
		t.Errorf("member = %v, want 23", m)
	}
}

func TestALearnerVotesWhenItHasCaughtUpAndItsNodeIsAManagerByThatEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.learn(2, 22)
	w.round(t.Context())
	if len(w.group.learners) != 1 {
		t.Fatal("a learner that has not caught up was made a voter")
	}
	w.group.learners[0].CaughtUp = true
	w.round(t.Context())
	snap := w.store.Snapshot()
	if !snap.Member(22).GetVoter() || snap.Node(nodeN(2)).GetRole() != modelv1.Role_ROLE_MANAGER {
		t.Errorf("member %v, node role %v; want a voter and a manager", snap.Member(22), snap.Node(nodeN(2)).GetRole())
	}
	if v, m := snap.Node(nodeN(2)).GetMeta().GetVersion(), snap.Member(22).GetMeta().GetVersion(); v != m {
		t.Errorf("role written at %d, vote at %d; want one entry", v, m)
	}
}

func TestAMemberWhoseRecordWantsAWorkerIsTakenOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(2, modelv1.Role_ROLE_MANAGER)
	w.learn(2, 22)
	w.group.learners[0].CaughtUp = true
	w.round(t.Context())
	w.node(2, modelv1.Role_ROLE_WORKER) // demoted
	w.round(t.Context())
	snap := w.store.Snapshot()
	if snap.Member(22) != nil || snap.Node(nodeN(2)).GetRole() != modelv1.Role_ROLE_WORKER {
		t.Errorf("member %v, role %v; want none and a worker", snap.Member(22), snap.Node(nodeN(2)).GetRole())
	}
}

func TestTheLeaderHandsOverBeforeItIsTakenOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.group.voters = append(w.group.voters, Voter{RaftID: 2, Active: true}, Voter{RaftID: 3, Active: true})
	if _, err := w.Leave(as(t.Context(), 1), &raftv1.LeaveRequest{}); !errdefs.IsUnavailable(err) {
		t.Errorf("leave of the leader = %v, want Unavailable: the new leader does it", err)
	}
	if w.group.handed != 1 || len(w.group.changes) != 0 {
		t.Errorf("handed over %d times, changes %q; want once and none", w.group.handed, w.group.changes)
	}
}

func TestNoChangeLosesTheQuorum(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		voters []Voter
		want   string
	}{
		{"the last manager stays", []Voter{{1, true}}, "last manager"},
		{"of two, the dead one is needed to agree", []Voter{{1, true}, {2, false}}, "of the 1 managers that would remain, 0 can be reached and 1 are needed"},
		{"of three with two dead, none can go", []Voter{{1, true}, {2, false}, {3, false}}, "of the 2 managers that would remain, 0 can be reached and 2 are needed"},
		{"of three, all well, one can go", []Voter{{1, true}, {2, true}, {3, true}}, ""},
	} {
		w := newWorld(t)
		w.group.voters = tt.voters
		err := w.CanLose(nodeN(1))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: CanLose = %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestAMovedManagerIsRecordedAtItsNewAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.Move(as(t.Context(), 1), &raftv1.MoveRequest{RaftId: 1, Address: "10.0.0.9:2377"}); err != nil {
		t.Fatal(err)
	}
	if got := w.store.Snapshot().Member(1).GetAddress(); got != "10.0.0.9:2377" {
		t.Errorf("address = %q, want the new one", got)
	}
	if _, err := w.Move(as(t.Context(), 1), &raftv1.MoveRequest{RaftId: 99, Address: "x"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("move of another member = %v, want FailedPrecondition", err)
	}
}

func TestTheKeeperActsOnWhatChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { defer close(over); _ = w.Keep(ctx) }()
		w.node(2, modelv1.Role_ROLE_MANAGER)
		w.learn(2, 22)
		time.Sleep(time.Second)
		synctest.Wait()
		if w.store.Snapshot().Member(22).GetVoter() {
			t.Error("the learner votes before it has caught up")
		}
		w.change.Lock()
		w.group.learners[0].CaughtUp = true
		w.change.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if !w.store.Snapshot().Member(22).GetVoter() {
			t.Error("the learner has caught up and does not vote")
		}
		stop()
		<-over
	})
}
