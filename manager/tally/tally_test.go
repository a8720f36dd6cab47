package tally_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	"github.com/skep-project/skep/manager/tally"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

type proposer struct{ err error }

func (p proposer) Propose(context.Context, []byte) (uint64, error) { return 7, p.err }

func TestAProposalIsPassedOnAndCountedByItsEnd(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"applied": nil, "conflict": &store.Conflict{}, "answered": &store.Duplicate{},
		"refused": fmt.Errorf("propose: %w before it was taken in: %w", context.Canceled, consensus.ErrRefused),
		"unknown": fmt.Errorf("propose: %w: %w", context.Canceled, consensus.ErrUnknown),
	} {
		var c tally.Tally
		index, got := c.Proposer(proposer{err}).Propose(t.Context(), nil)
		if index != 7 || !errors.Is(got, err) {
			t.Errorf("%s: passed on as %d, %v", want, index, got)
		}
		r := c.Read()
		for outcome, n := range r.Proposals {
			if (n == 1) != (outcome == want) {
				t.Errorf("%v: %s = %d, want one %s", err, outcome, n, want)
			}
		}
		if (r.Propose.Count == 1) != (err == nil) {
			t.Errorf("%s: %d durations; only what was applied has one", want, r.Propose.Count)
		}
	}
}

func TestAnEntrysTransactionsAddUp(t *testing.T) {
	t.Parallel()
	var c tally.Tally
	c.Apply(time.Millisecond, 3, []error{nil, &store.Partial{Conflicts: []*store.Conflict{{}}}, &store.Duplicate{}})
	c.Apply(time.Millisecond, 2, nil)
	c.Apply(time.Millisecond, 0, nil)
	r := c.Read()
	if got := r.Transactions; got["applied"] != 3 || got["conflict"] != 1 || got["answered"] != 1 || r.Apply.Count != 3 {
		t.Errorf("transactions %v in %d entries; want 3 applied, 1 conflict, 1 answered in 3", got, r.Apply.Count)
	}
}

// stream is a node's side: it says what is in in, and hears all.
type stream struct {
	dispatchv1.Dispatch_SessionServer
	in []*dispatchv1.SessionRequest
}

func (s *stream) Recv() (*dispatchv1.SessionRequest, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	next := s.in[0]
	s.in = s.in[1:]
	return next, nil
}

func (*stream) Send(*dispatchv1.SessionResponse) error { return nil }

// server hears beats 1 and 2, waits a second and confirms one, then the other.
type server struct {
	dispatchv1.UnimplementedDispatchServer
	open func()
}

func (s server) Session(stream dispatchv1.Dispatch_SessionServer) error {
	s.open()
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	for beat := range uint64(3) {
		resp := &dispatchv1.SessionResponse{Beat: beat, Assignments: &dispatchv1.Assignments{
			Put: []*dispatchv1.Assignment{{}}, Drop: [][]byte{{1}},
		}}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	_, err := stream.Recv()
	return err
}

func TestASessionIsCountedAsItGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c tally.Tally
		open := func() {
			if got := c.Read().Sessions; got != 1 {
				t.Errorf("%d sessions are open, want 1", got)
			}
		}
		err := c.Dispatch(server{open: open}).Session(&stream{in: []*dispatchv1.SessionRequest{
			{Beat: 1}, {Beat: 2}, {Reports: &dispatchv1.Reports{Reports: []*dispatchv1.TaskReport{{}, {}}}},
		}})
		if !errors.Is(err, io.EOF) {
			t.Errorf("the end is passed on as %v", err)
		}
		r := c.Read()
		if r.Sessions != 0 || r.Beats != 2 || r.Reports != 2 || r.Messages != 3 || r.Assignments != 6 {
			t.Errorf("%+v; want 0 sessions, 2 beats, 2 reports, 3 messages, 6 assignments", r)
		}
		if r.Confirmed.Count != 1 || r.Confirmed.Sum != 1 {
			t.Errorf("confirmed %d in %v s; want the first waiting beat, once, in 1 s", r.Confirmed.Count, r.Confirmed.Sum)
		}
	})
}

type authority struct {
	cav1.UnimplementedAuthorityServer
	err error
}

func (a authority) Enroll(context.Context, *cav1.EnrollRequest) (*cav1.EnrollResponse, error) {
	if a.err != nil {
		return nil, a.err
	}
	return &cav1.EnrollResponse{Issued: &cav1.Issued{Role: modelv1.Role_ROLE_WORKER}}, nil
}

func (a authority) Renew(context.Context, *cav1.RenewRequest) (*cav1.RenewResponse, error) {
	return &cav1.RenewResponse{Issued: &cav1.Issued{Role: modelv1.Role_ROLE_MANAGER}}, a.err
}

func TestCertificatesAreCountedByRoleAndRefusalsByCall(t *testing.T) {
	t.Parallel()
	var c tally.Tally
	good, bad := c.Authority(authority{}), c.Authority(authority{err: errdefs.ErrPermissionDenied})
	for _, a := range []cav1.AuthorityServer{good, good, bad} {
		_, _ = a.Enroll(t.Context(), nil) // what it says is not the point
	}
	_, _ = good.Renew(t.Context(), nil) // as above
	_, _ = bad.Renew(t.Context(), nil)  // as above
	_, _ = bad.Renew(t.Context(), nil)  // as above
	r := c.Read()
	if r.Issued["worker"] != 2 || r.Issued["manager"] != 1 || r.Refused["enroll"] != 1 || r.Refused["renew"] != 2 {
		t.Errorf("issued %v refused %v; want 2 worker, 1 manager; 1 enroll, 2 renew", r.Issued, r.Refused)
	}
}

func TestACensusCountsEveryTaskOnceAndTheLostAsUnknown(t *testing.T) {
	t.Parallel()
	s, _, log := storetest.New()
	well, lost, service := id.New(), id.New(), id.New()
	ops := []*logv1.Operation{
		{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
			Id: well.Bytes(), Status: &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY},
			Current: &modelv1.Certificate{NotAfter: 2e18},
		}}},
		{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
			Id: lost.Bytes(), Status: &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_DOWN, LostSince: 1},
			Spec:    &modelv1.NodeSpec{Availability: modelv1.Availability_AVAILABILITY_DRAIN},
			Current: &modelv1.Certificate{NotAfter: 1e18},
		}}},
		{Op: &logv1.Operation_PutService{PutService: &modelv1.Service{Id: service.Bytes(), Spec: &modelv1.ServiceSpec{Name: "a"}}}},
		{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: service.Bytes(), Number: 1, Template: &modelv1.TaskTemplate{}}}},
	}
	for i, on := range []struct {
		node  id.ID
		state modelv1.TaskState
	}{
		{well, taskstate.Running}, {well, taskstate.Failed}, {lost, taskstate.Running}, {lost, taskstate.Failed}, {id.ID{}, taskstate.Pending},
	} {
		task := &modelv1.Task{
			Id: id.New().Bytes(), Service: service.Bytes(), Slot: uint64(i + 1), Revision: 1,
			Desired: taskstate.Running, Status: &modelv1.TaskStatus{State: on.state},
		}
		if !on.node.IsZero() {
			task.Node = on.node.Bytes()
		}
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: task}})
	}
	if err := log.Do(ops...); err != nil {
		t.Fatal(err)
	}
	c := tally.Count(s.Snapshot(), time.Unix(1e9, 1))
	all := 0
	for state, n := range c.Tasks {
		all += n
		if want := map[string]int{"running": 1, "failed": 2, "unknown": 1, "pending": 1}[state]; n != want {
			t.Errorf("%d tasks are %s, want %d", n, state, want)
		}
	}
	if all != c.Objects["tasks"] || all != 5 {
		t.Errorf("%d tasks in all states, %d in the table; want 5", all, c.Objects["tasks"])
	}
	if c.Nodes["ready"] != 1 || c.Nodes["down"] != 1 || c.Availability["drain"] != 1 || c.Availability["active"] != 1 {
		t.Errorf("nodes %v, availability %v", c.Nodes, c.Availability)
	}
	if c.Certificates["good"] != 1 || c.Certificates["expired"] != 1 || c.Certificates["late"] != 0 {
		t.Errorf("certificates %v, want one good and one expired", c.Certificates)
	}
	if c := tally.Count(s.Snapshot(), time.Unix(17e8, 0)); c.Certificates["late"] != 1 {
		t.Errorf("certificates %v after 85 of 100 of a life, want one late", c.Certificates)
	}
	if !c.Soonest.Equal(time.Unix(1e9, 0)) {
		t.Errorf("the first certificate ends %v, want %v", c.Soonest, time.Unix(1e9, 0))
	}
}

func BenchmarkCensusOf100kTasks(b *testing.B) {
	s, _, log := storetest.New()
	node, service := id.New(), id.New()
	ops := []*logv1.Operation{
		{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: node.Bytes()}}},
		{Op: &logv1.Operation_PutService{PutService: &modelv1.Service{Id: service.Bytes(), Spec: &modelv1.ServiceSpec{Name: "a"}}}},
		{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: service.Bytes(), Number: 1, Template: &modelv1.TaskTemplate{}}}},
	}
	for i := range uint64(100_000) {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
			Id: id.New().Bytes(), Service: service.Bytes(), Node: node.Bytes(), Slot: i + 1, Revision: 1, Desired: taskstate.Running,
		}}})
	}
	if err := log.Do(ops...); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		tally.Count(s.Snapshot(), time.Now())
	}
}
