package dispatch

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// replica is a store whose commits are applied at once: a quorum of one.
type replica struct {
	t *testing.T
	*store.Store
	index uint64
	turn  chan struct{}
	seen  []*modelv1.NodeStatus // of node 1, as committed
}

func newReplica(t *testing.T) *replica { return newReplicaOf(t, false) }

// newReplicaOf is of a cluster that asks for FIPS 140-3 mode, or does not.
func newReplicaOf(t *testing.T, fips bool) *replica {
	r := &replica{t: t, Store: store.New(), turn: make(chan struct{}, 1)}
	ops := []*logv1.Operation{{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
		Id: nodeN(100).Bytes(), History: nodeN(101).Bytes(), Spec: &modelv1.ClusterSpec{}, Fips: fips,
	}}}}
	for n := byte(1); n <= 3; n++ {
		// All but the first are Down, so that the guard of R3 has nothing to say.
		state := map[bool]modelv1.NodeState{true: unknown, false: down}[n == 1]
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
			Id: nodeN(n).Bytes(), Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_WORKER},
			Current: &modelv1.Certificate{Generation: 1, Role: modelv1.Role_ROLE_WORKER},
			Status:  &modelv1.NodeStatus{State: state},
		}}})
	}
	r.do(ops...)
	return r
}

func (r *replica) commit(_ context.Context, units []*logv1.Unit) error {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	b, err := proto.Marshal(&logv1.Transaction{Units: units})
	if err != nil {
		return err
	}
	for _, u := range units {
		for _, op := range u.GetOperations() {
			if string(op.GetNodeSeen().GetNode()) == string(nodeN(1).Bytes()) {
				r.seen = append(r.seen, op.GetNodeSeen().GetStatus())
			}
		}
	}
	r.index++
	for _, err := range r.Apply(r.index, time.Now().UnixNano(), [][]byte{b}) {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *replica) do(ops ...*logv1.Operation) {
	r.t.Helper()
	if err := r.commit(r.t.Context(), []*logv1.Unit{{Operations: ops}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) task(n byte, node byte) *modelv1.Task {
	task := &modelv1.Task{
		Id: nodeN(n).Bytes(), Service: nodeN(50).Bytes(), Revision: 1, Slot: uint64(n), Node: nodeN(node).Bytes(),
		Desired: modelv1.TaskState_TASK_STATE_RUNNING,
		Status:  &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_ASSIGNED},
	}
	r.do(&logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: task}})
	return task
}

func (r *replica) service() {
	r.do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: &modelv1.Service{
		Id: nodeN(50).Bytes(), Spec: &modelv1.ServiceSpec{Name: "ping"}, Current: 1, Target: 1, LastRevision: 1,
	}}}, &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{
		Service: nodeN(50).Bytes(), Number: 1, Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}},
	}}})
}

// fakeRaft is a manager's place in the group.
type fakeRaft struct {
	self    bool
	leader  id.ID
	dial    func() (*grpc.ClientConn, error)
	changed chan struct{}
}

func (f *fakeRaft) Leader() (bool, id.ID, <-chan struct{}) { return f.self, f.leader, f.changed }
func (f *fakeRaft) Dial(context.Context) (*grpc.ClientConn, error) {
	return f.dial()
}
func (f *fakeRaft) TransferLeadership(context.Context, string) error { return nil }
func (f *fakeRaft) Barrier(context.Context) error                    { return nil }
func (f *fakeRaft) InContact() bool                                  { return true }

// manager is a Server reached over memory. Its callers say who they are.
type manager struct {
	*Server
	raft *fakeRaft
	lis  *bufconn.Listener
}

func startManager(ctx context.Context, t *testing.T, r *replica, self byte, raft *fakeRaft) *manager {
	t.Helper()
	raft.changed = make(chan struct{})
	m := &manager{raft: raft, lis: bufconn.Listen(1 << 20)}
	m.Server = New(Config{
		Store: r.Store, Commit: r.commit, Raft: raft, Self: nodeN(self), Log: slog.New(slog.DiscardHandler),
		Hello: func() *rpcv1.Hello { return &rpcv1.Hello{Node: nodeN(self).Bytes()} },
		Managers: func(s *store.Snapshot) *cav1.ManagerList {
			return &cav1.ManagerList{Index: s.Index(), History: s.Cluster().GetHistory()}
		},
	})
	g := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(ss.Context())
		node, err := id.Parse(md.Get("node")[0])
		if err != nil {
			return err
		}
		return next(srv, &asCaller{ss, rpc.WithCaller(ss.Context(), rpc.Caller{Kind: rpc.Node, Node: node, Address: "10.0.0.9:1"})})
	}))
	dispatchv1.RegisterDispatchServer(g, m.Server)
	done := make(chan struct{}, 2)
	go func() { _ = g.Serve(m.lis); done <- struct{}{} }()
	go func() { _ = m.Run(ctx); done <- struct{}{} }()
	context.AfterFunc(ctx, g.Stop)
	t.Cleanup(func() { <-done; <-done })
	return m
}

type asCaller struct {
	grpc.ServerStream
	ctx context.Context
}

func (a *asCaller) Context() context.Context { return a.ctx }

func (m *manager) conn(t *testing.T, as byte) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return m.lis.Dial() }),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			return next(metadata.AppendToOutgoingContext(ctx, "node", nodeN(as).String()), d, cc, method, o...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// agent is one node's end of a session.
type agent struct {
	t *testing.T
	dispatchv1.Dispatch_SessionClient
	drop context.CancelFunc
}

func (m *manager) open(ctx context.Context, t *testing.T, node byte, req *dispatchv1.SessionRequest) *agent {
	t.Helper()
	ctx, drop := context.WithCancel(ctx)
	s, err := dispatchv1.NewDispatchClient(m.conn(t, node)).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(req); err != nil {
		t.Fatal(err)
	}
	return &agent{t: t, Dispatch_SessionClient: s, drop: drop}
}

// until reads messages until ok holds of one.
func (a *agent) until(what string, ok func(*dispatchv1.SessionResponse) bool) *dispatchv1.SessionResponse {
	a.t.Helper()
	for {
		resp, err := a.Recv()
		if err != nil {
			a.t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(resp) {
			return resp
		}
	}
}

func opening(session uint64) *dispatchv1.SessionRequest {
	return &dispatchv1.SessionRequest{
		Open: &dispatchv1.Open{Hello: &rpcv1.Hello{Boot: []byte("boot")}, Session: session},
		Beat: 1, Description: &modelv1.NodeDescription{Hostname: "dev01"},
	}
}

// inBubble runs f with a replica, a leader and a follower that relays to it.
func inBubble(t *testing.T, f func(ctx context.Context, t *testing.T, r *replica, leader, follower *manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := newReplica(t)
		leader := startManager(ctx, t, r, 2, &fakeRaft{self: true, leader: nodeN(2)})
		follower := startManager(ctx, t, r, 3, &fakeRaft{leader: nodeN(2), dial: func() (*grpc.ClientConn, error) { return leader.conn(t, 3), nil }})
		over := make(chan struct{})
		go func() { _ = leader.Tenure(ctx); close(over) }()
		t.Cleanup(func() { stop(); <-over })
		f(ctx, t, r, leader, follower)
		stop()
		synctest.Wait()
	})
}

func TestASessionOnAnyManagerGetsItsWorkAndIsCountedByTheLeader(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, _, follower *manager) {
		r.service()
		r.task(10, 1)
		a := follower.open(ctx, t, 1, opening(1))
		first := a.until("the first set", func(m *dispatchv1.SessionResponse) bool { return m.GetAssignments() != nil })
		if got := first.GetAssignments(); !got.GetComplete() || len(got.GetPut()) != 1 || len(got.GetTemplates()) != 1 {
			t.Errorf("first assignments = %v, want one task, its template, complete", got)
		}
		if first.GetWelcome().GetLease() != int64(10*time.Second) || first.GetManagers() == nil || first.GetWish() == nil {
			t.Errorf("first message = %v, want a welcome, managers and a wish", first)
		}
		if first.GetBeat() == 0 {
			a.until("the beat's confirmation", func(m *dispatchv1.SessionResponse) bool { return m.GetBeat() == 1 })
		}
		synctest.Wait()
		n := r.Snapshot().Node(nodeN(1))
		if n.GetStatus().GetState() != ready || n.GetDescription().GetHostname() != "dev01" {
			t.Errorf("node after its session began = %v %v, want READY and described", n.GetStatus(), n.GetDescription())
		}

		r.task(11, 1)
		r.task(12, 2)
		next := a.until("the second task", func(m *dispatchv1.SessionResponse) bool { return m.GetAssignments() != nil }).GetAssignments()
		if next.GetComplete() || len(next.GetPut()) != 1 || string(next.GetPut()[0].GetTask()) != string(nodeN(11).Bytes()) || len(next.GetTemplates()) != 0 {
			t.Errorf("second assignments = %v, want task 11 alone, no template again", next)
		}
	})
}

func TestAReportIsAcknowledgedWhenItIsCommitted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, _, follower *manager) {
		r.service()
		r.task(10, 1)
		r.task(12, 2)
		a := follower.open(ctx, t, 1, opening(1))
		running := &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_RUNNING}
		err := a.Send(&dispatchv1.SessionRequest{Reports: &dispatchv1.Reports{Sequence: 7, Reports: []*dispatchv1.TaskReport{
			{Task: nodeN(10).Bytes(), Status: running},
			{Task: nodeN(12).Bytes(), Status: running}, // another node's: dropped
			{Task: nodeN(99).Bytes(), Status: running}, // unknown: dropped
		}}})
		if err != nil {
			t.Fatal(err)
		}
		a.until("the acknowledgement", func(m *dispatchv1.SessionResponse) bool { return m.GetReports() == 7 })
		snap := r.Snapshot()
		if got := snap.Task(nodeN(10)).Observed; got != modelv1.TaskState_TASK_STATE_RUNNING {
			t.Errorf("task 10 = %v when its report was acknowledged, want RUNNING", got)
		}
		if got := snap.Task(nodeN(12)).Observed; got != modelv1.TaskState_TASK_STATE_ASSIGNED {
			t.Errorf("task 12 of another node = %v, want ASSIGNED still", got)
		}
	})
}

func TestReportsOutliveALeaderThatDiesBeforeItsCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		r := newReplica(t)
		r.service()
		r.task(10, 1)
		m := startManager(ctx, t, r, 2, &fakeRaft{self: true, leader: nodeN(2)})
		a := m.open(ctx, t, 1, opening(1))
		if err := a.Send(&dispatchv1.SessionRequest{Reports: &dispatchv1.Reports{Sequence: 1, Reports: []*dispatchv1.TaskReport{
			{Task: nodeN(10).Bytes(), Status: &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_FAILED}},
		}}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // there is no tenure yet: nothing can be committed
		if got := r.Snapshot().Task(nodeN(10)).Observed; got != modelv1.TaskState_TASK_STATE_ASSIGNED {
			t.Fatalf("task = %v without a leader, want ASSIGNED", got)
		}
		over := make(chan struct{})
		go func() { _ = m.Tenure(ctx); close(over) }()
		a.until("the acknowledgement", func(m *dispatchv1.SessionResponse) bool { return m.GetReports() == 1 })
		if got := r.Snapshot().Task(nodeN(10)).Observed; got != modelv1.TaskState_TASK_STATE_FAILED {
			t.Errorf("task = %v under the new leader, want FAILED", got)
		}
		stop()
		<-over
	})
}

func TestABrokenStreamMakesTheNodeUnknownAtOnceAndDownAfterItsLease(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, _, follower *manager) {
		a := follower.open(ctx, t, 1, opening(1))
		a.until("a confirmed beat", func(m *dispatchv1.SessionResponse) bool { return m.GetBeat() == 1 })
		a.drop()
		synctest.Wait()
		if s := r.Snapshot().Node(nodeN(1)).GetStatus(); s.GetState() != unknown || s.GetLostSince() == 0 {
			t.Errorf("status after the stream broke = %v, want UNKNOWN and since when", s)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if s := r.Snapshot().Node(nodeN(1)).GetStatus(); s.GetState() != down {
			t.Errorf("status after the lease = %v, want DOWN", s)
		}
	})
}

func TestAReplicaBehindTheAgentSaysSo(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, _ *manager) {
		req := opening(1)
		req.Open.History, req.Open.Index = r.Snapshot().Cluster().GetHistory(), r.Snapshot().Index()+10
		a := leader.open(ctx, t, 1, req)
		end := a.until("the end", func(m *dispatchv1.SessionResponse) bool { return m.GetEnd() != nil }).GetEnd()
		if end.GetReason() != dispatchv1.End_REASON_BEHIND {
			t.Errorf("end = %v, want BEHIND", end)
		}
	})
}

func TestANewerSessionEndsTheOlder(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, _ *manager) {
		old := leader.open(ctx, t, 1, opening(1))
		old.until("the first set", func(m *dispatchv1.SessionResponse) bool { return m.GetAssignments() != nil })
		leader.open(ctx, t, 1, opening(2))
		end := old.until("the end", func(m *dispatchv1.SessionResponse) bool { return m.GetEnd() != nil }).GetEnd()
		if end.GetReason() != dispatchv1.End_REASON_REPLACED {
			t.Errorf("end = %v, want REPLACED", end)
		}
		synctest.Wait()
		if got := r.Snapshot().Node(nodeN(1)).GetStatus(); got.GetState() != ready || got.GetSession() != 2 {
			t.Errorf("status = %v, want READY in session 2", got)
		}
	})
}

func TestAReportOfATaskThatTheLeaderHasNotAppliedYetIsCommitted(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.service()
	of := func(node byte) *dispatchv1.NodeReports {
		return &dispatchv1.NodeReports{Node: nodeN(node).Bytes(), Reports: []*dispatchv1.TaskReport{{
			Task: nodeN(60).Bytes(), Status: &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_RUNNING},
		}}}
	}
	reported := func(node byte) []*logv1.Operation {
		s := newSlip(time.Now())
		s.add(of(node))
		return s.operations(r.Snapshot())
	}
	ops := reported(1) // another manager's replica had the task first
	if len(ops) != 1 {
		t.Fatalf("%d operations for a task that this replica does not know, want its report", len(ops))
	}
	r.task(60, 1)
	r.do(ops...)
	if got := r.Snapshot().Task(nodeN(60)).Observed; got != modelv1.TaskState_TASK_STATE_RUNNING {
		t.Errorf("the task is %v, want running", got)
	}
	for _, node := range []byte{1, 2} {
		if got := reported(node); len(got) != 0 {
			t.Errorf("%d operations for what is known already or not node %d's to say", len(got), node)
		}
	}
}

func TestASessionWithoutFIPSModeIsRefusedWhereTheSwarmAsksForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		m := startManager(ctx, t, newReplicaOf(t, true), 2, &fakeRaft{self: true, leader: nodeN(2)})
		req := opening(1)
		if _, err := m.open(ctx, t, 1, req).Recv(); err == nil || !strings.Contains(err.Error(), "FIPS 140-3 mode") {
			t.Errorf("without: %v, want an error that names the mode", err)
		}
		req.Open.Hello.Fips = true
		m.open(ctx, t, 1, req).until("a welcome", func(m *dispatchv1.SessionResponse) bool { return m.GetWelcome() != nil })
		stop()
		synctest.Wait()
	})
}
