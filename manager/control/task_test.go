package control

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestATaskIsShownWithItsPlaceAndWhetherItIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	x := w.create(web())
	w.task(100, x, 1, 2, taskstate.Running)
	w.task(101, x, 2, 2, taskstate.Failed)
	w.lose(2, 77)
	resp, err := w.ListTasks(w.ctx(), &controlv1.ListTasksRequest{})
	if err != nil || len(resp.GetTasks()) != 2 || resp.GetNow() < w.snapshot().LogTime().UnixNano() {
		t.Fatalf("ListTasks = %v, %v", resp, err)
	}
	v := resp.GetTasks()[0]
	if v.GetServiceName() != "web" || v.GetNodeName() != "dev02" || v.GetImage() != "docker.io/library/alpine:latest" || v.GetUnknownSince() != 77 {
		t.Errorf("task = %v", v)
	}
	if got := resp.GetTasks()[1].GetUnknownSince(); got != 0 {
		t.Errorf("a task that has ended is unknown since %d", got)
	}
}

func TestTasksAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	x := w.create(web())
	other := web()
	other.Spec.Name, other.Template.Container.Labels = "db", map[string]string{"tier": "data"}
	y := w.create(other)
	w.task(100, x, 1, 1, taskstate.Running)
	w.task(101, x, 2, 2, taskstate.Running)
	w.task(102, y, 1, 2, taskstate.Running)
	w.task(103, y, 2, 2, taskstate.Failed) // it is told nothing: nobody wants it to run all the same
	w.do(&logv1.Operation{Op: &logv1.Operation_Decide{Decide: &logv1.Decide{Task: num(101).Bytes(), Desired: taskstate.Shutdown}}})
	for _, tt := range []struct {
		name   string
		filter *controlv1.Filter
		want   []byte
	}{
		{"nothing", nil, []byte{100, 101, 102, 103}},
		{"service", &controlv1.Filter{Services: []string{"web", "web"}}, []byte{100, 101}},
		{"node", &controlv1.Filter{Nodes: []string{"dev02"}}, []byte{101, 102, 103}},
		{"self", &controlv1.Filter{Nodes: []string{"self"}}, []byte{100}},
		{"both", &controlv1.Filter{Services: []string{"web"}, Nodes: []string{"dev02"}}, []byte{101}},
		{"running", &controlv1.Filter{Desired: []modelv1.TaskState{taskstate.Running}}, []byte{100, 102}},
		{"shutdown", &controlv1.Filter{Desired: []modelv1.TaskState{taskstate.Shutdown}}, []byte{101, 103}},
		{"name", &controlv1.Filter{Names: []string{"web.2"}}, []byte{101}},
		{"id", &controlv1.Filter{Ids: []string{num(102).String()}}, []byte{102}},
		{"label", &controlv1.Filter{Labels: []string{"tier"}}, []byte{102, 103}},
	} {
		resp, err := w.ListTasks(w.ctx(), &controlv1.ListTasksRequest{Filter: tt.filter})
		var got []byte
		for _, v := range resp.GetTasks() {
			got = append(got, v.GetTask().GetId()[15])
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("by %s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	_, err := w.ListTasks(w.ctx(), &controlv1.ListTasksRequest{Filter: &controlv1.Filter{Nodes: []string{"dev09"}}})
	w.refuses(err, errdefs.IsNotFound, "node dev09 not found", "")
}

// stream is the server's end of a watch; whoever reads takes from sent.
type stream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // a stream has one
	sent chan *controlv1.WatchServiceResponse
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(m *controlv1.WatchServiceResponse) error {
	select {
	case s.sent <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func TestAWatchTellsAServicesStory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		x := w.create(web())
		w.task(100, x, 1, 1, taskstate.Running)
		other := web()
		other.Spec.Name = "other"
		y := w.create(other)
		ctx, cancel := context.WithCancel(w.ctx())
		s := &stream{ctx: ctx, sent: make(chan *controlv1.WatchServiceResponse)}
		ended := make(chan error, 1)
		go func() { ended <- w.WatchService(&controlv1.WatchServiceRequest{Ref: "web"}, s) }()

		m := <-s.sent
		if !m.GetComplete() || len(m.GetTasks()) != 1 || m.GetService().GetRunning() != 1 || m.GetIndex() != w.snapshot().Index() {
			t.Errorf("first = %v", m)
		}
		w.task(101, y, 1, 1, taskstate.Running) // of another service
		w.node(9, worker)                       // without a task of ours
		synctest.Wait()
		select {
		case m := <-s.sent:
			t.Errorf("told of what is not its: %v", m)
		default:
		}
		// What changes while a message waits to be taken comes as one.
		w.task(102, x, 2, 2, taskstate.Running)
		synctest.Wait()
		w.do(&logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: store.KindTask, Key: num(100).Bytes()}}})
		w.lose(2, 5)
		first, second := <-s.sent, <-s.sent
		if len(first.GetTasks()) != 1 || idOf(first.GetTasks()[0].GetTask().GetId()) != num(102) || first.GetComplete() || first.GetService() != nil {
			t.Errorf("the new task: %v", first)
		}
		if len(second.GetGone()) != 1 || idOf(second.GetGone()[0]) != num(100) || len(second.GetTasks()) != 1 || second.GetTasks()[0].GetUnknownSince() != 5 {
			t.Errorf("a task gone and a node lost: %v", second)
		}
		if err := w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Template.Force++ }); err != nil {
			t.Fatal(err)
		}
		if m := <-s.sent; m.GetService().GetService().GetTarget() != 2 || len(m.GetTasks()) != 0 {
			t.Errorf("the service changed: %v", m)
		}
		w.do(&logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: store.KindTask, Key: num(102).Bytes()}}},
			&logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: store.KindService, Key: x.Bytes()}}})
		if m := <-s.sent; !m.GetRemoved() {
			t.Errorf("the service is gone: %v", m)
		}
		if err := <-ended; err != nil {
			t.Errorf("the watch of a removed service: %v", err)
		}
		go func() { ended <- w.WatchService(&controlv1.WatchServiceRequest{Ref: "other"}, s) }()
		<-s.sent
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a watch whose caller left: %v", err)
		}
		if err := w.WatchService(&controlv1.WatchServiceRequest{Ref: "web"}, s); !errdefs.IsNotFound(err) {
			t.Errorf("a watch of nothing: %v", err)
		}
	})
}
