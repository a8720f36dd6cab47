package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/control/events"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// world is a server over a store without a quorum, and a group that is told what
// to be.
type world struct {
	*testing.T
	*Server
	log    *storetest.Log
	leader uint64
	dark   map[uint64]bool
	quorum error                 // what CanLose says
	cutOff atomic.Pointer[error] // what Contact says; nil: nothing
}

func (w *world) MissedSince(raftID uint64) int64 {
	if w.dark[raftID] {
		return 7
	}
	return 0
}

func (w *world) Contact() error {
	if err := w.cutOff.Load(); err != nil {
		return *err
	}
	return nil
}

func (w *world) Leader() uint64 { return w.leader }

func (w *world) Reachability(raftID uint64) controlv1.ManagerStatus_Reachability {
	if w.dark[raftID] {
		return controlv1.ManagerStatus_REACHABILITY_UNREACHABLE
	}
	return controlv1.ManagerStatus_REACHABILITY_REACHABLE
}

func (w *world) CanLose(id.ID) error { return w.quorum }

// decisions keep the promises of the deciders, in few words.
var decisions = Decisions{
	Constraint: func(s string) error {
		if !strings.Contains(s, "==") && !strings.Contains(s, "!=") {
			return fmt.Errorf("%q: want key==value", s)
		}
		return nil
	},
	Spread: func(s string) error {
		if !strings.HasPrefix(s, "node.") {
			return fmt.Errorf("%q: want a key", s)
		}
		return nil
	},
	Revise: func(s *modelv1.Service, revision uint64, now int64) {
		s.LastRevision = revision
		if s.GetCurrent() == 0 {
			s.Current, s.Target = revision, revision
			return
		}
		s.Previous, s.Target = s.GetCurrent(), revision
		s.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_UPDATING, StartedAt: now}
	},
	RollBack: func(s *modelv1.Service, now int64) error {
		s.Target, s.Previous = s.GetPrevious(), s.GetTarget()
		s.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, StartedAt: now}
		return nil
	},
	Resume: func(s *modelv1.Service, now int64) bool {
		if s.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_PAUSED {
			return false
		}
		s.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_UPDATING, StartedAt: now}
		return true
	},
}

// num returns an id with small digits that differ at the end.
func num(n byte) id.ID { return id.ID{15: n} }

// emptyWorld is a manager that holds no state yet.
func emptyWorld(t *testing.T) *world {
	t.Helper()
	st, db, log := storetest.New()
	chronicle := &events.Chronicle{}
	st.Observe(chronicle)
	w := &world{T: t, log: log, leader: 1, dark: map[uint64]bool{}}
	s, err := New(Config{Self: num(1), DB: db, Group: w, Events: chronicle, Decisions: decisions, Users: newScribe(t), Roots: &rotor{}, Condemn: tribunal{},
		Managers: func(s *store.Snapshot) *cav1.ManagerList { return &cav1.ManagerList{Index: s.Index()} },
		Seal: func(root *modelv1.RootCA, p audit.Purpose, v *audit.Seal) error {
			return v.Sign(p, root.GetCertificates(), sealed.NewSecret(root.GetKey()))
		}})
	if err != nil {
		t.Fatal(err)
	}
	w.Server = s
	return w
}

// newWorld is a swarm of so many managers, dev01 and on, the first of which
// leads and answers. Node n has id num(n) and raft id n.
func newWorld(t *testing.T, managers byte) *world {
	t.Helper()
	w := emptyWorld(t)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
		Id: num(200).Bytes(), Spec: &modelv1.ClusterSpec{Name: "default"},
		Root:        &modelv1.RootCA{Certificates: w.cfg.Users.(*scribe).Roots().DER(), Key: []byte("very secret")},
		WorkerToken: []byte("worker secret 16"), ManagerToken: []byte("manager secret16"),
	}}})
	for n := range managers {
		w.node(n+1, manager)
		w.do(&logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{
			RaftId: uint64(n + 1), Node: num(n + 1).Bytes(), Address: fmt.Sprintf("dev%02d:2377", n+1), Voter: true,
		}}})
	}
	return w
}

func (w *world) do(ops ...*logv1.Operation) {
	w.Helper()
	if err := w.log.Do(ops...); err != nil {
		w.Fatal(err)
	}
}

// node puts node n, ready.
func (w *world) node(n byte, role modelv1.Role) {
	w.Helper()
	w.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
		Id: num(n).Bytes(), Role: role, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED,
		Spec:        &modelv1.NodeSpec{Role: role, Availability: modelv1.Availability_AVAILABILITY_ACTIVE},
		Description: &modelv1.NodeDescription{Hostname: fmt.Sprintf("dev%02d", n)},
		Status:      &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY},
	}}})
}

// lose says that nobody hears node n since a time.
func (w *world) lose(n byte, since int64) {
	w.Helper()
	w.do(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{
		Node: num(n).Bytes(), Status: &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_DOWN, LostSince: since},
	}}})
}

// task puts a task of a service in a slot on node n, observed in a state.
func (w *world) task(x byte, service id.ID, slot uint64, n byte, state modelv1.TaskState) {
	w.Helper()
	w.do(&logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
		Id: num(x).Bytes(), Service: service.Bytes(), Revision: 1, Slot: slot, Node: num(n).Bytes(), Desired: taskstate.Running,
	}}}, &logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{
		Task: num(x).Bytes(), Node: num(n).Bytes(), Status: &modelv1.TaskStatus{State: state},
	}}})
}

// ctx is that of a user at this manager's socket.
func (w *world) ctx() context.Context {
	return rpc.WithCaller(w.Context(), rpc.Caller{Kind: rpc.User, User: "uid:0", At: num(1)})
}

// fresh returns a request id.
func fresh() []byte { return id.New().Bytes() }

// web is a service as a client sends it.
func web() *controlv1.CreateServiceRequest {
	return &controlv1.CreateServiceRequest{
		RequestId: fresh(), Spec: &modelv1.ServiceSpec{Name: "web"},
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}},
	}
}

func (w *world) create(req *controlv1.CreateServiceRequest) id.ID {
	w.Helper()
	resp, err := w.CreateService(w.ctx(), req)
	if err != nil {
		w.Fatal(err)
	}
	return idOf(resp.GetId())
}

// view returns a service as it is shown.
func (w *world) view(ref string) *controlv1.ServiceView {
	w.Helper()
	resp, err := w.GetService(w.ctx(), &controlv1.GetServiceRequest{Ref: ref})
	if err != nil {
		w.Fatal(err)
	}
	return resp.GetService()
}

// update sends back what view shows, changed.
func (w *world) update(ref string, change func(*controlv1.UpdateServiceRequest)) error {
	w.Helper()
	v := w.view(ref)
	req := &controlv1.UpdateServiceRequest{
		RequestId: fresh(), Ref: ref, Version: v.GetService().GetMeta().GetVersion(),
		Spec: proto.CloneOf(v.GetService().GetSpec()), Template: proto.CloneOf(v.GetTemplate()),
	}
	change(req)
	_, err := w.UpdateService(w.ctx(), req)
	return err
}

// refuses holds an error to its kind, its words and its hint.
func (w *world) refuses(err error, is func(error) bool, words, hint string) {
	w.Helper()
	switch {
	case err == nil:
		w.Errorf("it was done, want a refusal with %q", words)
	case !is(err):
		w.Errorf("refused with %v, which is of another kind", err)
	case !strings.Contains(err.Error(), words):
		w.Errorf("refused with %q, want %q in it", err, words)
	case !strings.Contains(rpc.HintOf(err), hint) || hint != "" && rpc.HintOf(err) == "":
		w.Errorf("the hint is %q, want %q in it", rpc.HintOf(err), hint)
	}
}

func TestAConfigWithoutAFieldIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("an empty Config was taken")
	}
}

func TestAChangeNeedsACallerAndARequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	req := web()
	if _, err := w.CreateService(t.Context(), req); err == nil {
		t.Error("a call by nobody made a service")
	}
	req.RequestId = []byte("short")
	if _, err := w.CreateService(w.ctx(), req); err == nil || !strings.Contains(err.Error(), "want 16") {
		t.Errorf("a short request id: %v", err)
	}
}

func TestARetryGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.node(4, worker)
	w.lose(4, 1)
	req := web()
	x := w.create(req)
	v := w.view("web").GetService()
	update := &controlv1.UpdateServiceRequest{RequestId: fresh(), Ref: "web", Version: v.GetMeta().GetVersion(), Spec: v.GetSpec(),
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine:2"}}}
	drain := &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: "dev04", Availability: modelv1.Availability_AVAILABILITY_DRAIN.Enum()}
	rotate := &controlv1.RotateJoinTokenRequest{RequestId: fresh(), Role: worker}
	settings := &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: &modelv1.ClusterSpec{TaskHistory: 3}}
	removeNode := &controlv1.RemoveNodeRequest{RequestId: fresh(), Ref: "dev04"}
	remove := &controlv1.RemoveServiceRequest{RequestId: fresh(), Ref: "web"}
	for _, call := range []func() (proto.Message, error){
		func() (proto.Message, error) { return w.CreateService(w.ctx(), req) },
		func() (proto.Message, error) { return w.UpdateService(w.ctx(), update) },
		func() (proto.Message, error) { return w.UpdateNode(w.ctx(), drain) },
		func() (proto.Message, error) { return w.RotateJoinToken(w.ctx(), rotate) },
		func() (proto.Message, error) { return w.UpdateCluster(w.ctx(), settings) },
		func() (proto.Message, error) { return w.RemoveNode(w.ctx(), removeNode) },
		func() (proto.Message, error) { return w.RemoveService(w.ctx(), remove) },
	} {
		first, err := call()
		if err != nil {
			t.Fatal(err)
		}
		before := w.snapshot().Index()
		again, err := call()
		if err != nil || !proto.Equal(first, again) || w.snapshot().Index() != before {
			t.Errorf("the retry: %v, %v; want %v and nothing written", again, err, first)
		}
	}
	if got := w.view("web").GetService(); idOf(got.GetId()) != x || got.GetLastRevision() != 2 {
		t.Errorf("service = %v", got)
	}
	other := web()
	other.RequestId, other.Spec.Name = req.GetRequestId(), "other"
	if _, err := w.CreateService(w.ctx(), other); err == nil || !strings.Contains(err.Error(), "another request") {
		t.Errorf("one id for two requests: %v", err)
	}
}

func TestARivalsChangeIsSeenBeforeOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	proposed := 0
	w.log.Before = func([]byte) error {
		if proposed++; proposed == 1 { // dev03 is demoted while our demotion of dev02 is on its way
			w.quorum = errors.New("1 of 1 would remain")
			c := proto.CloneOf(w.snapshot().Cluster())
			return w.log.Do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
		}
		return nil
	}
	_, err := w.UpdateNode(w.ctx(), &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: "dev02", Role: worker.Enum()})
	if err == nil || !strings.Contains(err.Error(), "loss of quorum") {
		t.Errorf("the demotion did not count again: %v", err)
	}
	if got := w.snapshot().Node(num(2)).GetSpec().GetRole(); got != manager {
		t.Errorf("role = %v, want manager still", got)
	}
}

var _ Group = (*world)(nil)

func opPutUser(u *modelv1.User) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: u}}
}
