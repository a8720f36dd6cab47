package containerd_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/agent/containerd/containerdtest"
	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// stand is a containerd, a registry called registry.test with the image "box",
// and a runtime for one node.
type stand struct {
	*containerdtest.Host
	t             testing.TB
	ctx           context.Context
	cluster, node id.ID
	runtime       *containerd.Runtime
	digest        string
}

const box = "registry.test/box:1"

func newStand(t testing.TB) *stand {
	t.Helper()
	h := containerdtest.Start(t)
	server := containerdtest.NewRegistry(t, nil)
	containerdtest.Alias(t, h.HostsDir, "registry.test", server.URL)
	s := &stand{Host: h, t: t, cluster: id.New(), node: id.New()}
	s.digest = containerdtest.Push(t, server, "box:1", containerdtest.Busybox(t, nil))
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(stop)
	s.ctx = ctx
	s.runtime = s.newRuntime(s.cluster, s.node)
	return s
}

// newRuntime is the runtime of an agent that has just started.
func (s *stand) newRuntime(cluster, node id.ID) *containerd.Runtime {
	s.t.Helper()
	r, err := containerd.New(containerd.Config{
		Address: s.Supervisor.Address(), Cluster: cluster, Node: node,
		StateDir: filepath.Join(s.Dir, "agent"), HostsDir: s.HostsDir, CgroupParent: s.CgroupParent,
		Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { r.Close() })
	return r
}

// shell returns a template that runs a script in the box.
func shell(script string) *modelv1.TaskTemplate {
	return &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{
		Image: box, Command: []string{"sh", "-c", script}, StopGracePeriod: int64(5 * time.Second),
	}}
}

func (s *stand) spec(tmpl *modelv1.TaskTemplate) exec.Spec {
	return exec.Spec{Cluster: s.cluster, Node: s.node, Task: id.New(), Service: id.New(), Slot: 1,
		Revision: 1, CreatedIndex: 7, ServiceName: "web", NodeHostname: "bench", Template: tmpl}
}

// start prepares and starts a task.
func (s *stand) start(tmpl *modelv1.TaskTemplate) (exec.Spec, exec.Controller) {
	s.t.Helper()
	spec := s.spec(tmpl)
	c := s.runtime.Task(spec)
	s.must(c.Prepare(s.ctx))
	s.must(c.Start(s.ctx))
	return spec, c
}

// run runs a task to its end and returns what it printed.
func (s *stand) run(tmpl *modelv1.TaskTemplate) (exec.Exit, string) {
	s.t.Helper()
	spec, c := s.start(tmpl)
	end, err := c.Wait(s.ctx)
	s.must(err)
	return end, s.printed(spec)
}

func (s *stand) printed(spec exec.Spec) string {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, "agent", "tasks", spec.Task.String(), "log"))
	s.must(err)
	return string(data)
}

func (s *stand) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits for a fact that nobody announces.
func (s *stand) eventually(what string, fact func() bool) {
	s.t.Helper()
	for !fact() {
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("it never came true that %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestConformance(t *testing.T) {
	s := newStand(t)
	missing := shell("true")
	missing.Container.Image = "registry.test/missing:1"
	exectest.Conform(t, exectest.Bench{
		Host: func(t *testing.T) func(cluster, node id.ID) exec.Runtime {
			return func(cluster, node id.ID) exec.Runtime { return s.newRuntime(cluster, node) }
		},
		Forever: shell("trap 'exit 0' TERM; while :; do sleep 0.05; done"),
		Exits: func(code int32) *modelv1.TaskTemplate {
			return shell("exit " + string(rune('0'+code)))
		},
		Missing: missing,
	})
}

func TestATaskPrintsIntoItsLog(t *testing.T) {
	s := newStand(t)
	end, printed := s.run(shell("echo out; echo err >&2; exit 7"))
	if end.Code != 7 || time.Since(end.At) > time.Minute || !strings.Contains(printed, "out") || !strings.Contains(printed, "err") {
		t.Errorf("ended %+v, printed %q; want code 7, now, and both lines", end, printed)
	}
}
