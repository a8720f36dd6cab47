package backup_test

import (
	"encoding/hex"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// born is when the sample swarms begin; their roots are as old.
var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

var clusterID = id.MustParse("1abcdefghijklmnopqrstuvwx")

// authority is one root for all samples: making one is slow.
var authority = sync.OnceValues(func() ([]byte, sealed.Secret) {
	der, key, err := issue.NewRoot(clusterID, born)
	if err != nil {
		panic(err)
	}
	return der, key
})

// A sample is a swarm whose state belongs together, and the way to spoil it.
type sample struct {
	store *store.Store
	log   *storetest.Log
	nodes []id.ID
	// web is a service, with revision 1 and a task.
	web, task id.ID
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (s *sample) do(t fatal, ops ...*logv1.Operation) {
	t.Helper()
	if err := s.log.Do(ops...); err != nil {
		t.Fatalf("%v", err)
	}
}

func putCluster(history id.ID, change func(*modelv1.Cluster)) *logv1.Operation {
	root, key := authority()
	c := &modelv1.Cluster{
		Id: clusterID.Bytes(), History: history.Bytes(), Spec: &modelv1.ClusterSpec{Name: "default"},
		Root:        &modelv1.RootCA{Certificates: [][]byte{root}, Key: key.Reveal()},
		WorkerToken: ca.NewTokenSecret().Reveal(), ManagerToken: ca.NewTokenSecret().Reveal(), FeatureLevel: 1,
	}
	if change != nil {
		change(c)
	}
	return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}}
}

func putNode(x id.ID, change func(*modelv1.Node)) *logv1.Operation {
	root, _ := authority()
	issuer := ca.RootDigest(root)
	n := &modelv1.Node{
		Id: x.Bytes(), Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_WORKER}, Role: modelv1.Role_ROLE_WORKER,
		Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Description: &modelv1.NodeDescription{Hostname: "dev-" + x.Short()},
		Current: &modelv1.Certificate{Generation: 1, KeySha256: make([]byte, 32), Issuer: issuer[:]},
	}
	if change != nil {
		change(n)
	}
	return &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: n}}
}

func putService(x id.ID, name string, change func(*modelv1.Service)) *logv1.Operation {
	v := &modelv1.Service{
		Id: x.Bytes(), Current: 1, LastRevision: 1,
		Spec: &modelv1.ServiceSpec{Name: name, Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 3}}},
	}
	if change != nil {
		change(v)
	}
	return &logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}}
}

func putRevision(service id.ID, number uint64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{
		Service: service.Bytes(), Number: number,
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "docker.io/library/alpine:latest"}},
	}}}
}

func createTask(x, service, node id.ID, revision uint64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
		Id: x.Bytes(), Service: service.Bytes(), Revision: revision, Slot: 1, Node: node.Bytes(),
		Desired: modelv1.TaskState_TASK_STATE_RUNNING,
	}}}
}

func claim(kind, key string, owner id.ID) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Claim{Claim: &modelv1.Claim{Kind: kind, Key: key, Owner: owner.Bytes()}}}
}

func putMember(raftID uint64, node id.ID, address string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: raftID, Node: node.Bytes(), Address: address, Voter: true}}}
}

// small is a swarm with one object of each kind.
func small(t fatal) *sample {
	t.Helper()
	st, _, log := storetest.New()
	s := &sample{store: st, log: log, nodes: []id.ID{id.New()}, web: id.New(), task: id.New()}
	key := make([]byte, 32)
	s.do(t, putCluster(id.New(), nil),
		putNode(s.nodes[0], func(n *modelv1.Node) { n.EnrolmentKey, n.Spec.Name = key, "first" }),
		claim(store.ClaimEnrolmentKey, hex.EncodeToString(key), s.nodes[0]), claim(store.ClaimNodeName, "first", s.nodes[0]),
		putMember(7, s.nodes[0], "10.0.0.1:2377"),
		putService(s.web, "web", nil), claim(store.ClaimServiceName, "web", s.web), putRevision(s.web, 1))
	s.do(t, createTask(s.task, s.web, s.nodes[0], 1))
	s.do(t, report(s.task, s.nodes[0], modelv1.TaskState_TASK_STATE_RUNNING))
	return s
}

func report(task, node id.ID, state modelv1.TaskState) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{
		Task: task.Bytes(), Node: node.Bytes(), Status: &modelv1.TaskStatus{State: state, Error: "as said", AgentAt: 5},
	}}}
}

// random is a swarm of any size and age.
func random(t *rapid.T) *sample {
	s := small(t)
	for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
		x := id.New()
		s.nodes = append(s.nodes, x)
		s.do(t, putNode(x, func(n *modelv1.Node) {
			n.Spec.Labels = map[string]string{"zone": fmt.Sprint(i), "rack": "b", "a": rapid.String().Draw(t, "label")}
		}))
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "services") {
		x, name := id.New(), fmt.Sprintf("service-%d", i)
		last := rapid.Uint64Range(1, 3).Draw(t, "revisions")
		ops := []*logv1.Operation{
			putService(x, name, func(v *modelv1.Service) { v.Current, v.LastRevision = last, last }),
			claim(store.ClaimServiceName, name, x),
		}
		for r := range last {
			ops = append(ops, putRevision(x, r+1))
		}
		s.do(t, ops...)
		for range rapid.IntRange(0, 4).Draw(t, "tasks") {
			task, node := id.New(), rapid.SampledFrom(append(s.nodes, id.ID{})).Draw(t, "node")
			s.do(t, createTask(task, x, node, rapid.Uint64Range(1, last).Draw(t, "revision")))
			if !node.IsZero() && rapid.Bool().Draw(t, "reports") {
				s.do(t, report(task, node, rapid.SampledFrom([]modelv1.TaskState{512, 576, 704}).Draw(t, "state")))
			}
		}
		s.log.Advance(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "while")))
	}
	return s
}

var _ fatal = (*testing.T)(nil)
