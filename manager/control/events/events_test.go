package events_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/control/events"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func num(n byte) id.ID { return id.ID{15: n} }

var (
	dev01, dev02, web, web1 = num(1), num(2), num(10), num(20)

	ready   = modelv1.NodeState_NODE_STATE_READY
	unknown = modelv1.NodeState_NODE_STATE_UNKNOWN
	down    = modelv1.NodeState_NODE_STATE_DOWN
)

// A world is a store, its chronicle, and how far it was read.
type world struct {
	*testing.T
	log       *storetest.Log
	store     *store.Store
	chronicle *events.Chronicle
	at        uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, _, log := storetest.New()
	w := &world{T: t, log: log, store: s, chronicle: &events.Chronicle{}}
	s.Observe(w.chronicle)
	return w
}

func (w *world) do(ops ...*logv1.Operation) {
	w.Helper()
	if err := w.log.Do(ops...); err != nil {
		w.Fatal(err)
	}
}

// next returns what happened since it was called last, as lines.
func (w *world) next() []string {
	var out []string
	for {
		p := w.chronicle.After(w.at)
		if len(p.Entries) == 0 {
			return out
		}
		for _, e := range p.Entries {
			out = append(out, line(e.Event))
			w.at = e.Index
		}
	}
}

func line(v *controlv1.Event) string {
	text := v.GetType() + " " + v.GetAction() + " " + v.GetName()
	for _, k := range slices.Sorted(maps.Keys(v.GetAttributes())) {
		text += " " + k + "=" + v.GetAttributes()[k]
	}
	if v.GetReason() != "" {
		text += ": " + v.GetReason()
	}
	return text
}

func putCluster(change func(*modelv1.Cluster)) *logv1.Operation {
	c := &modelv1.Cluster{Id: num(200).Bytes(), History: []byte("one"), Spec: &modelv1.ClusterSpec{Name: "default"}, WorkerToken: []byte("secret")}
	change(c)
	return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}}
}

// outside is the cluster with an external CA that fails, or does not.
func outside(failing bool) *logv1.Operation {
	h := &modelv1.ExternalHealth{Url: "https://one", Failing: failing}
	if failing {
		h.Error = "refused"
	}
	return putCluster(func(c *modelv1.Cluster) {
		c.WorkerToken, c.Root = []byte("another"), &modelv1.RootCA{ExternalHealth: []*modelv1.ExternalHealth{h}}
	})
}

func putNode(x id.ID, change func(*modelv1.NodeSpec)) *logv1.Operation {
	spec := &modelv1.NodeSpec{Role: modelv1.Role_ROLE_WORKER}
	change(spec)
	return &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: x.Bytes(), JoinedFrom: "192.0.2.9", Spec: spec}}}
}

func seen(x id.ID, name string, state modelv1.NodeState, message string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{
		Node: x.Bytes(), Status: &modelv1.NodeStatus{State: state, Message: message}, Description: &modelv1.NodeDescription{Hostname: name, Version: "v1"},
	}}}
}

func twin(x id.ID, message string) *logv1.Operation {
	op := seen(x, "dev02", ready, message)
	s := op.GetNodeSeen().GetStatus()
	s.ObservedAddress, s.TwinBoot, s.TwinAddress = "10.0.0.1", []byte("other"), "10.0.0.2"
	return op
}

func member(raftID uint64, x id.ID, voter bool, address string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: raftID, Node: x.Bytes(), Voter: voter, Address: address}}}
}

func putService(change func(*modelv1.Service)) *logv1.Operation {
	v := &modelv1.Service{Id: web.Bytes(), Target: 1, Spec: &modelv1.ServiceSpec{Name: "web",
		Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 2}}}}
	change(v)
	return &logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}}
}

func revision(number uint64, image string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: web.Bytes(), Number: number,
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: image, Labels: map[string]string{"tier": "front"}}}}}}
}

func task(node id.ID, reason string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{Id: web1.Bytes(), Service: web.Bytes(), Revision: 1,
		Slot: 1, Node: node.Bytes(), Desired: taskstate.Running, Reason: reason}}}
}

func decide(d *logv1.Decide) *logv1.Operation {
	d.Task = web1.Bytes()
	return &logv1.Operation{Op: &logv1.Operation_Decide{Decide: d}}
}

func report(state modelv1.TaskState, problem string, exit int32) *logv1.Operation {
	st := &modelv1.TaskStatus{State: state, Error: problem}
	if taskstate.Terminal(state) {
		st.ExitCode = &exit
	}
	return &logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{Task: web1.Bytes(), Node: dev01.Bytes(), Status: st}}}
}

func remove(kind logv1.Kind, key []byte) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: kind, Key: key}}}
}

func putToken(change func(*modelv1.JoinToken)) *logv1.Operation {
	v := &modelv1.JoinToken{Id: num(40).Bytes(), SecretHash: []byte("hush-hush"), Role: modelv1.Role_ROLE_WORKER, Uses: 2,
		Description: "rack 7", ExpiresAt: 60e9, CreatedBy: "user:uid:0"}
	change(v)
	return &logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: v}}
}

// usedBy is what a token notes of dev02, with a verdict.
func usedBy(verdict modelv1.TokenVerdict, by string) func(*modelv1.JoinToken) {
	return func(v *modelv1.JoinToken) {
		v.Used = []*modelv1.TokenUse{{Node: dev02.Bytes(), Hostname: "dev02", From: "192.0.2.9", Verdict: verdict, DecidedBy: by}}
	}
}

func putUser(generation uint64, ends int64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: &modelv1.User{Id: num(30).Bytes(), Name: "alice", CreatedBy: "user:uid:0",
		Role: modelv1.UserRole_USER_ROLE_VIEWER, Current: &modelv1.Certificate{Generation: generation, NotAfter: ends * 1e9, Serial: []byte("hush-hush")}}}}
}

func plain[T any](*T) {}

// TestTheStoryOfASwarm is a swarm's life, index by index: what is done, what is
// told.
func TestTheStoryOfASwarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	updating := func(state modelv1.UpdateState, message string) func(*modelv1.Service) {
		return func(v *modelv1.Service) {
			v.Target, v.Previous = 2, 1
			v.Update = &modelv1.UpdateStatus{State: state, Message: message}
		}
	}
	for _, tt := range []struct {
		what string
		do   []*logv1.Operation
		want []string
	}{
		{"init", []*logv1.Operation{putCluster(plain), putNode(dev01, func(s *modelv1.NodeSpec) { s.Role = modelv1.Role_ROLE_MANAGER }), member(1, dev01, true, "dev01:2377")},
			[]string{"swarm create default", "node create  address=192.0.2.9 role=manager"}},
		{"the first session", []*logv1.Operation{seen(dev01, "dev01", ready, "")}, []string{"node ready dev01 state.new=ready state.old=unknown"}},
		{"a worker joins", []*logv1.Operation{putNode(dev02, plain)}, []string{"node create  address=192.0.2.9 role=worker"}},
		{"and is heard", []*logv1.Operation{seen(dev02, "dev02", ready, "")}, []string{"node ready dev02 state.new=ready state.old=unknown"}},
		{"a beat is no event", []*logv1.Operation{seen(dev02, "dev02", ready, "")}, nil},
		{"its session breaks", []*logv1.Operation{seen(dev02, "dev02", unknown, "session broken")},
			[]string{"node unknown dev02 state.new=unknown state.old=ready: session broken"}},
		{"it is lost", []*logv1.Operation{seen(dev02, "dev02", down, "no heartbeat")},
			[]string{"node down dev02 state.new=down state.old=unknown: no heartbeat"}},
		{"two of it", []*logv1.Operation{twin(dev02, "two machines take turns")},
			[]string{"node ready dev02 state.new=ready state.old=down: two machines take turns",
				"node clone dev02 address=10.0.0.1 other=10.0.0.2: two machines take turns"}},
		{"the other of them is heard", []*logv1.Operation{twin(dev02, "two machines take turns")}, nil},
		{"one alone for long", []*logv1.Operation{seen(dev02, "dev02", ready, "")}, []string{"node clone dev02: one machine alone has been heard of late"}},
		{"it is drained and labelled", []*logv1.Operation{putNode(dev02, func(s *modelv1.NodeSpec) {
			s.Availability, s.Labels = modelv1.Availability_AVAILABILITY_DRAIN, map[string]string{"zone": "a"}
		})}, []string{"node update dev02 availability.new=drain availability.old=active label.zone.new=a label.zone.old="}},
		{"it is to be a manager", []*logv1.Operation{putNode(dev02, func(s *modelv1.NodeSpec) { s.Role = modelv1.Role_ROLE_MANAGER })},
			[]string{"node update dev02 availability.new=active availability.old=drain label.zone.new= label.zone.old=a role.new=manager role.old=worker"}},
		{"it learns", []*logv1.Operation{member(2, dev02, false, "dev02:2377")}, nil},
		{"it votes", []*logv1.Operation{member(2, dev02, true, "dev02:2377")}, []string{"node promote dev02 address=dev02:2377"}},
		{"it moves", []*logv1.Operation{member(2, dev02, true, "new:2377")},
			[]string{"node update dev02 manager.address.new=new:2377 manager.address.old=dev02:2377"}},
		{"it leads", []*logv1.Operation{{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "node", Action: "leader", Node: dev02.Bytes(),
			Reason: "dev01 is  gone", Attributes: map[string]string{"leader.old": "dev01"}}}}}, []string{"node leader dev02 leader.old=dev01: dev01 is gone"}},
		{"it votes no more", []*logv1.Operation{remove(store.KindMember, store.MemberKey(2))}, []string{"node demote dev02 address=new:2377"}},
		{"a service", []*logv1.Operation{revision(1, "nginx:1"), putService(plain)}, []string{"service create web image=nginx:1 mode=replicated replicas=2"}},
		{"a task without a place", []*logv1.Operation{task(id.ID{}, "no suitable node")},
			[]string{"task create web.1 service=web", "task pending web.1 service=web: no suitable node"}},
		{"another reason", []*logv1.Operation{decide(&logv1.Decide{Reason: new("none at all")})}, []string{"task pending web.1 service=web: none at all"}},
		{"a place", []*logv1.Operation{decide(&logv1.Decide{Node: dev01.Bytes(), Reason: new(string)})}, []string{"task assigned web.1 node=dev01 service=web"}},
		{"it runs", []*logv1.Operation{report(taskstate.Preparing, "", 0), report(taskstate.Running, "", 0)}, []string{"task running web.1 node=dev01 service=web"}},
		{"it fails", []*logv1.Operation{report(taskstate.Failed, "it\nbroke", 3)}, []string{"task failed web.1 exitcode=3 node=dev01 service=web: it broke"}},
		{"scaled", []*logv1.Operation{putService(func(v *modelv1.Service) { v.Spec.GetReplicated().Replicas = 3 })},
			[]string{"service update web replicas.new=3 replicas.old=2"}},
		{"updated", []*logv1.Operation{revision(2, "nginx:2"), putService(updating(modelv1.UpdateState_UPDATE_STATE_UPDATING, ""))},
			[]string{"service update web image.new=nginx:2 image.old=nginx:1 replicas.new=2 replicas.old=3 revision.new=2 revision.old=1 updatestate.new=updating updatestate.old="}},
		{"paused", []*logv1.Operation{putService(updating(modelv1.UpdateState_UPDATE_STATE_PAUSED, "1 of 2 failed"))},
			[]string{"service update-paused web updatestate.new=paused updatestate.old=updating: 1 of 2 failed"}},
		{"resumed", []*logv1.Operation{putService(updating(modelv1.UpdateState_UPDATE_STATE_UPDATING, ""))},
			[]string{"service update web updatestate.new=updating updatestate.old=paused"}},
		{"completed", []*logv1.Operation{putService(updating(modelv1.UpdateState_UPDATE_STATE_COMPLETED, "update completed"))},
			[]string{"service update-completed web updatestate.new=completed updatestate.old=updating: update completed"}},
		{"to be removed", []*logv1.Operation{putService(func(v *modelv1.Service) { v.Target, v.Removing = 2, true })}, []string{"service remove web"}},
		{"gone", []*logv1.Operation{remove(store.KindTask, web1.Bytes()), remove(store.KindService, web.Bytes())},
			[]string{"task destroy web.1 node=dev01 service=web", "service destroy web"}},
		{"a token", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) { c.WorkerToken = []byte("another") })}, []string{"swarm token-rotated default role=worker"}},
		{"an external CA that fails", []*logv1.Operation{outside(true)}, []string{"swarm external-ca-fails default url=https://one: refused"}},
		{"and is back", []*logv1.Operation{outside(false)}, []string{"swarm external-ca-back default url=https://one"}},
		{"and stays", []*logv1.Operation{outside(false)}, nil},
		{"settings, and a new history", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) {
			c.WorkerToken, c.History, c.Spec.Lease = []byte("another"), []byte("two"), 5e9
		})}, []string{"swarm new-history default: a new cluster was made of one manager, or a backup was restored", "swarm update default lease.new=5s lease.old=0s"}},
		{"a limit for dead managers", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) {
			c.WorkerToken, c.History, c.Spec.Lease, c.Spec.DeadManagerRemoval = []byte("another"), []byte("two"), 5e9, 600e9
		})}, []string{"swarm update default deadmanagerremoval.new=10m0s deadmanagerremoval.old=0s"}},
		{"a manager that may be compromised", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) {
			c.WorkerToken, c.History, c.Spec.Lease, c.Spec.DeadManagerRemoval = nil, []byte("two"), 5e9, 600e9
			c.Condemnation = &modelv1.Condemnation{Id: []byte{1}, Nodes: []*modelv1.Condemned{{Node: dev02.Bytes(), Name: "dev02"}}, Step: modelv1.CondemnationStep_CONDEMNATION_STEP_OUT}
		})}, []string{"swarm condemn-start default condemnation=01 node=dev02: manager dev02 may be compromised: what it knows is replaced"}},
		{"it is out", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) {
			c.WorkerToken, c.History, c.Spec.Lease, c.Spec.DeadManagerRemoval = nil, []byte("two"), 5e9, 600e9
			c.Condemnation = &modelv1.Condemnation{Id: []byte{1}, Nodes: []*modelv1.Condemned{{Node: dev02.Bytes(), Name: "dev02"}}, Step: modelv1.CondemnationStep_CONDEMNATION_STEP_DATA_KEY}
		})}, []string{"swarm condemn-step default condemnation=01 step=data key"}},
		{"and it is over", []*logv1.Operation{putCluster(func(c *modelv1.Cluster) {
			c.WorkerToken, c.History, c.Spec.Lease, c.Spec.DeadManagerRemoval = []byte("a third"), []byte("two"), 5e9, 600e9
			c.Condemned = &modelv1.CondemnationEnd{Id: []byte{1}, LeftBehind: 2}
		})}, []string{"swarm token-rotated default role=worker", "swarm condemn-end default condemnation=01 leftbehind=2"}},
		{"it votes again", []*logv1.Operation{member(3, dev02, true, "dev02:2377")}, []string{"node promote dev02 address=dev02:2377"}},
		{"and is taken out", []*logv1.Operation{remove(store.KindMember, store.MemberKey(3)), {Op: &logv1.Operation_NodeRole{NodeRole: &logv1.NodeRole{
			Node: dev02.Bytes(), Role: modelv1.Role_ROLE_WORKER, Reason: "not heard for 10m0s"}}}},
			[]string{"node demote dev02 address=dev02:2377: not heard for 10m0s", "node update dev02 role.new=worker role.old=manager: not heard for 10m0s"}},
		{"a user", []*logv1.Operation{putUser(1, 60)}, []string{"user create alice by=user:uid:0 expires=1970-01-01T00:01:00Z role=viewer"}},
		{"his next certificate", []*logv1.Operation{putUser(2, 120)},
			[]string{"user update alice expires.new=1970-01-01T00:02:00Z expires.old=1970-01-01T00:01:00Z generation.new=2 generation.old=1"}},
		{"nothing new", []*logv1.Operation{putUser(2, 120)}, nil},
		{"he goes", []*logv1.Operation{remove(store.KindUser, num(30).Bytes())}, []string{"user remove alice role=viewer"}},
		{"a token", []*logv1.Operation{putToken(func(*modelv1.JoinToken) {})},
			[]string{"token create rack 7 by=user:uid:0 expires=1970-01-01T00:01:00Z role=worker uses=2"}},
		{"a node waits by it", []*logv1.Operation{putToken(usedBy(modelv1.TokenVerdict_TOKEN_VERDICT_PENDING, ""))},
			[]string{"token use rack 7 address=192.0.2.9 hostname=dev02 node=" + dev02.String()}},
		{"and is accepted", []*logv1.Operation{putToken(usedBy(0, "user:alice"))},
			[]string{"token accept rack 7 address=192.0.2.9 by=user:alice hostname=dev02 node=" + dev02.String()}},
		{"or rejected", []*logv1.Operation{putToken(usedBy(modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED, "user:alice"))},
			[]string{"token reject rack 7 address=192.0.2.9 by=user:alice hostname=dev02 node=" + dev02.String()}},
		{"it ends", []*logv1.Operation{putToken(func(v *modelv1.JoinToken) {
			usedBy(modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED, "user:alice")(v)
			v.End, v.EndReason = modelv1.TokenEnd_TOKEN_END_REVOKED, "revoked by user:alice"
		})}, []string{"token revoke rack 7: revoked by user:alice"}},
		{"it is forgotten", []*logv1.Operation{remove(store.KindToken, num(40).Bytes())}, nil},
		{"a node is removed", []*logv1.Operation{remove(store.KindNode, dev02.Bytes())}, []string{"node remove dev02 state=ready"}},
	} {
		w.do(tt.do...)
		if diff := cmp.Diff(tt.want, w.next()); diff != "" {
			t.Errorf("%s: told otherwise (-want +got):\n%s", tt.what, diff)
		}
	}
}

// TestNoSecretIsTold: neither tokens nor keys, nor what a container is given.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(putCluster(func(c *modelv1.Cluster) { c.WorkerToken = []byte("hush-hush") }))
	w.do(putCluster(func(c *modelv1.Cluster) { c.WorkerToken, c.ManagerToken = []byte("hush-hush-1"), []byte("hush-hush-2") }))
	r := revision(1, "nginx")
	r.GetPutRevision().Template.Container.Env = []string{"PASSWORD=hush-hush"}
	w.do(r, putService(plain), putUser(1, 60), putToken(func(*modelv1.JoinToken) {}))
	for _, l := range w.next() {
		if strings.Contains(l, "hush") {
			t.Errorf("told: %s", l)
		}
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(putCluster(plain), putNode(dev01, func(s *modelv1.NodeSpec) { s.Labels = map[string]string{"zone": "a"} }), seen(dev01, "dev01", ready, ""))
	w.do(revision(1, "nginx"), putService(plain), task(dev01, ""))
	w.do(report(taskstate.Starting, "", 0))
	w.do(report(taskstate.Running, "", 0))
	all := w.chronicle.After(0).Entries
	for _, tt := range []struct {
		name   string
		filter *controlv1.EventFilter
		want   string
	}{
		{"nothing asked: no mere passing", nil, "swarm create,node create,node ready,service create,task running"},
		{"all", &controlv1.EventFilter{All: true}, "swarm create,node create,node ready,service create,task create,task starting,task running"},
		{"a type", &controlv1.EventFilter{Types: []string{"task", "swarm"}}, "swarm create,task running"},
		{"an action, a passing one by its name", &controlv1.EventFilter{Actions: []string{"starting"}}, "task starting"},
		{"a node and what runs there", &controlv1.EventFilter{Nodes: []string{"dev01"}}, "node create,node ready,task running"},
		{"a node by its id", &controlv1.EventFilter{Nodes: []string{dev01.String()}}, "node create,node ready,task running"},
		{"a service and its tasks", &controlv1.EventFilter{Services: []string{"web"}}, "service create,task running"},
		{"a label", &controlv1.EventFilter{Labels: []string{"zone=a"}}, "node create,node ready"},
		{"a label's key", &controlv1.EventFilter{Labels: []string{"tier"}}, "task running"},
		{"another value", &controlv1.EventFilter{Labels: []string{"zone=b"}}, ""},
		{"both must hold", &controlv1.EventFilter{Nodes: []string{"dev01"}, Types: []string{"service"}}, ""},
	} {
		var got []string
		for i := range all {
			if all[i].Passes(tt.filter) {
				got = append(got, all[i].Event.GetType()+" "+all[i].Event.GetAction())
			}
		}
		if text := strings.Join(got, ","); text != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, text, tt.want)
		}
	}
}

func TestAReaderThatIsTooLateIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(putCluster(plain))
	big := strings.Repeat("x", 1000)
	var many []*logv1.Operation
	for range 1000 {
		many = append(many, &logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "swarm", Action: "note", Reason: big}}})
	}
	for range 20 {
		w.do(many...)
	}
	p := w.chronicle.After(1)
	if len(p.Entries) != 0 || p.Floor <= 1 {
		t.Fatalf("after 1: %d entries, floor %d; want to be told to go on from a later index", len(p.Entries), p.Floor)
	}
	if p = w.chronicle.After(p.Floor); p.Floor != 0 || len(p.Entries) == 0 {
		t.Errorf("from the floor on: %d entries, floor %d", len(p.Entries), p.Floor)
	}
	if _, whole := w.chronicle.Since(1, 21); whole {
		t.Error("what was forgotten is said to be whole")
	}
}

func TestAnInstalledSnapshotForgetsWhatWasBefore(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	w.do(putCluster(plain))
	other.do(putCluster(plain))
	other.do(putNode(dev01, plain))
	changed := w.chronicle.After(1).Changed
	var snapshot bytes.Buffer
	if err := other.store.Snapshot().Encode(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("who waits was not woken")
	}
	if p := w.chronicle.After(1); p.Floor != 2 || len(p.Entries) != 0 {
		t.Errorf("after 1: %d entries, floor %d; want floor 2", len(p.Entries), p.Floor)
	}
	if p := w.chronicle.After(2); p.Floor != 0 {
		t.Errorf("after 2: floor %d, want none", p.Floor)
	}
}

// TestReadingInPagesMissesAndRepeatsNothing holds the chronicle to that, however
// large the indexes are and wherever a reader begins.
func TestReadingInPagesMissesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		var want []string
		for i := range rapid.IntRange(1, 6).Draw(r, "indexes") {
			var ops []*logv1.Operation
			for k := range rapid.SampledFrom([]int{1, 2, 900, 1100}).Draw(r, "events") {
				ops = append(ops, &logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "swarm", Action: fmt.Sprint(i, ".", k)}}})
				want = append(want, fmt.Sprintf("swarm %d.%d ", i, k))
			}
			w.do(ops...)
		}
		if diff := cmp.Diff(want, w.next()); diff != "" {
			r.Errorf("read otherwise (-want +got):\n%s", diff)
		}
	})
}
