package store

import (
	"encoding/binary"
	"testing"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// num returns an id that is easy to read in a failure.
func num(n uint64) id.ID {
	var x id.ID
	binary.BigEndian.PutUint64(x[8:], n)
	return x
}

func opNode(n id.ID) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: n.Bytes()}}}
}

func opService(s id.ID, name string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutService{PutService: &modelv1.Service{
		Id: s.Bytes(), Spec: &modelv1.ServiceSpec{Name: name},
	}}}
}

func opRevision(s id.ID, n uint64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{
		Service: s.Bytes(), Number: n, Template: &modelv1.TaskTemplate{},
	}}}
}

func opMember(raftID uint64, node id.ID) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: raftID, Node: node.Bytes()}}}
}

func opUser(u id.ID, name string) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: &modelv1.User{Id: u.Bytes(), Name: name}}}
}

func opToken(t id.ID, hash string, uses uint32, used ...id.ID) *logv1.Operation {
	v := &modelv1.JoinToken{Id: t.Bytes(), SecretHash: []byte(hash), Role: modelv1.Role_ROLE_WORKER, Uses: uses}
	for _, n := range used {
		v.Used = append(v.Used, &modelv1.TokenUse{Node: n.Bytes()})
	}
	return &logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: v}}
}

func opTask(t, service, node id.ID, slot uint64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
		Id: t.Bytes(), Service: service.Bytes(), Node: node.Bytes(), Slot: slot, Revision: 1,
		Desired: modelv1.TaskState_TASK_STATE_RUNNING,
	}}}
}

func opDecide(d *logv1.Decide) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Decide{Decide: d}}
}

func opReport(t, node id.ID, st *modelv1.TaskStatus) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{Task: t.Bytes(), Node: node.Bytes(), Status: st}}}
}

func opDelete(kind logv1.Kind, key []byte) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: kind, Key: key}}}
}

func opClaim(kind, key string, owner id.ID) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Claim{Claim: &modelv1.Claim{Kind: kind, Key: key, Owner: owner.Bytes()}}}
}

func opRelease(kind, key string, owner id.ID) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Release{Release: &modelv1.Claim{Kind: kind, Key: key, Owner: owner.Bytes()}}}
}

func opSeen(node id.ID, st *modelv1.NodeStatus, d *modelv1.NodeDescription) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: node.Bytes(), Status: st, Description: d}}}
}

func unit(ops ...*logv1.Operation) *logv1.Unit { return &logv1.Unit{Operations: ops} }

func transaction(units ...*logv1.Unit) *logv1.Transaction { return &logv1.Transaction{Units: units} }

// step applies one unit as the next entry, a second of log time later.
func step(s *Store, ops ...*logv1.Operation) error {
	next := s.Snapshot().Index() + 1
	return s.ApplyProto(next, int64(next)*1e9, []*logv1.Transaction{transaction(unit(ops...))})[0]
}

// must is step for what is not in question.
func must(t testing.TB, s *Store, ops ...*logv1.Operation) {
	t.Helper()
	if err := step(s, ops...); err != nil {
		t.Fatal(err)
	}
}

// refused is step for what must conflict.
func refused(t *testing.T, s *Store, what string, ops ...*logv1.Operation) {
	t.Helper()
	before := encoded(t, s.Snapshot())
	err := step(s, ops...)
	if err == nil {
		t.Errorf("%s was applied", what)
		return
	}
	if _, ok := err.(*Conflict); !ok { //nolint:errorlint // Apply returns it bare
		t.Errorf("%s: %v (%T), want a *Conflict", what, err, err)
	}
	if after := encoded(t, s.Snapshot()); !sameObjects(t, before, after) {
		t.Errorf("%s was refused and left a trace", what)
	}
}
