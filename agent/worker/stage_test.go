package worker

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const lease = 10 * time.Second

// stage is a host and the worker on it, which can be restarted, in a bubble.
type stage struct {
	t             *testing.T
	dir           *os.Root
	kek           sealed.Secret
	cluster, node id.ID
	history       id.ID
	service       id.ID
	host          *exectest.Host

	*Worker
	journal *Journal
	stop    context.CancelFunc
	ran     chan struct{}

	mu       sync.Mutex
	reported map[id.ID][]modelv1.TaskState
}

var discard = slog.New(slog.DiscardHandler)

// runtime is the runtime of an agent that has just been started.
func (s *stage) runtime() exec.Runtime {
	if s.host == nil {
		s.host = exectest.NewHost()
	}
	return s.host.Runtime(s.cluster, s.node)
}

// onStage runs a test inside a bubble, with a worker that runs.
func onStage(t *testing.T, test func(t *testing.T, s *stage)) {
	t.Helper()
	t.Parallel()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	synctest.Test(t, func(t *testing.T) {
		s := &stage{
			t: t, dir: dir, kek: sealed.NewSecret(slices.Repeat([]byte{7}, 32)), cluster: id.New(), node: id.New(),
			history: id.New(), service: id.New(), host: exectest.NewHost(),
		}
		s.start()
		test(t, s)
		s.halt()
	})
}

// start starts the agent's worker, as after an agent's start.
func (s *stage) start() {
	s.t.Helper()
	j, err := OpenJournal(s.dir, s.kek, s.cluster, s.node)
	if err != nil {
		s.t.Fatal(err)
	}
	w, err := New(Config{
		Cluster: s.cluster, Node: s.node, Hostname: "h", Journal: j,
		Runtime: s.runtime(), Report: s.report, Log: discard,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.Worker, s.journal, s.stop, s.ran = w, j, stop, make(chan struct{})
	s.reported = make(map[id.ID][]modelv1.TaskState)
	go func() {
		defer close(s.ran)
		if err := w.Run(ctx); err != nil {
			s.t.Errorf("run: %v", err)
		}
	}()
	synctest.Wait()
}

// halt ends the worker in good order.
func (s *stage) halt() {
	s.t.Helper()
	s.stop()
	<-s.ran
	if err := s.journal.Close(); err != nil {
		s.t.Error(err)
	}
}

// crash ends the worker without giving it the time to write what is not
// durable yet.
func (s *stage) crash() {
	s.t.Helper()
	s.Worker.journal.mu.Lock()
	s.Worker.journal.open = &batch{} // what was queued is lost
	s.Worker.journal.mu.Unlock()
	s.halt()
}

func (s *stage) report(task id.ID, status *modelv1.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reported[task] = append(s.reported[task], status.GetState())
}

// last returns the state of a task that was reported last.
func (s *stage) last(task id.ID) modelv1.TaskState {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.reported[task]; len(r) > 0 {
		return r[len(r)-1]
	}
	return taskstate.New
}

// put is an assignment of a task created at the index.
func (s *stage) put(task id.ID, created uint64, desired modelv1.TaskState) *dispatchv1.Assignment {
	return &dispatchv1.Assignment{
		Task: task.Bytes(), Service: s.service.Bytes(), Revision: 1, Slot: 1, Desired: desired, CreatedIndex: created,
	}
}

func (s *stage) template(args ...string) *dispatchv1.Template {
	return &dispatchv1.Template{
		Service: s.service.Bytes(), Revision: 1, ServiceName: "web",
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "web", Args: args}},
	}
}

// complete is a complete set at an index, with the template it needs.
func (s *stage) complete(index uint64, put ...*dispatchv1.Assignment) *dispatchv1.Assignments {
	return &dispatchv1.Assignments{
		History: s.history.Bytes(), Index: index, Complete: true, Put: put,
		Templates: []*dispatchv1.Template{s.template()},
	}
}

func (s *stage) obey(a *dispatchv1.Assignments) {
	s.t.Helper()
	if err := s.Obey(context.Background(), a, lease); err != nil {
		s.t.Fatalf("obey index %d: %v", a.GetIndex(), err)
	}
	synctest.Wait()
}

// settle lets a sweep pass.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (s *stage) wantContainers(what string, want ...id.ID) {
	s.t.Helper()
	slices.SortFunc(want, id.Compare)
	if got := s.host.Tasks(); !slices.Equal(got, want) {
		s.t.Errorf("%s: containers of %v, want %v", what, got, want)
	}
}

func (s *stage) wantLast(what string, task id.ID, want modelv1.TaskState) {
	s.t.Helper()
	if got := s.last(task); got != want {
		s.t.Errorf("%s: reported %s, want %s", what, taskstate.Name(got), taskstate.Name(want))
	}
}

// stray puts a running container on the host that no worker was told of.
func (s *stage) stray(cluster, node id.ID, created uint64) id.ID {
	s.t.Helper()
	spec := exec.Spec{
		Cluster: cluster, Node: node, Task: id.New(), Service: s.service, CreatedIndex: created,
		Template: s.template().GetTemplate(),
	}
	c := s.host.Runtime(cluster, node).Task(spec)
	ctx := context.Background()
	if err := c.Prepare(ctx); err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		s.t.Fatal(err)
	}
	return spec.Task
}
