package exectest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Bench is what the conformance test needs of a runtime: machines to run on
// and templates that make its containers do what the test is about.
type Bench struct {
	// Host prepares a machine without containers and returns what gives its
	// runtime, as Host.Runtime does: called again with the same ids it is the
	// runtime of an agent that was restarted.
	Host func(t *testing.T) func(cluster, node id.ID) exec.Runtime
	// Forever is the template of a container that runs until the stop signal,
	// and ends on it soon.
	Forever *modelv1.TaskTemplate
	// Exits returns the template of a container that ends at once with code.
	Exits func(code int32) *modelv1.TaskTemplate
	// Missing is a template whose image does not exist.
	Missing *modelv1.TaskTemplate
	// Patience bounds each call. Zero means 30s.
	Patience time.Duration
}

// Conform tests that a runtime keeps the promises of package exec.
func Conform(t *testing.T, b Bench) {
	if b.Patience == 0 {
		b.Patience = 30 * time.Second
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *trial)
	}{
		{"a container is prepared, listed, started, stopped and removed", lifecycle},
		{"every step may be repeated", repeats},
		{"an exit is told with its code, again and again", exits},
		{"a container that ended is never started again", startsOnce},
		{"containers outlive the agent", outlives},
		{"a missing image is a rejection", rejects},
		{"what is not there is gone, and nothing to stop or remove", absent},
		{"another node's containers are not listed", foreign},
		{"a creation that was cut short is listed until it is removed", cutShort},
		{"a running container is removed with force", removesRunning},
		{"a wait ends with its context", waitEnds},
		{"a container is stopped without its template", stopsWithoutTemplate},
		{"the host is described", describes},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), b.Patience)
			t.Cleanup(stop)
			c.test(t, &trial{Bench: b, ctx: ctx, host: b.Host(t), cluster: id.New(), node: id.New()})
		})
	}
}

// trial is one conformance test on one machine.
type trial struct {
	Bench
	ctx           context.Context
	host          func(cluster, node id.ID) exec.Runtime
	cluster, node id.ID
}

// runtime is the runtime of an agent that has just been started.
func (r *trial) runtime() exec.Runtime { return r.host(r.cluster, r.node) }

// spec returns a new task.
func (r *trial) spec(template *modelv1.TaskTemplate) exec.Spec {
	return exec.Spec{
		Cluster: r.cluster, Node: r.node, Task: id.New(), Service: id.New(),
		Slot: 1, Revision: 1, CreatedIndex: 42,
		ServiceName: "conform", NodeHostname: "bench", Template: template,
	}
}

// started returns a running task of its own and removes it in the end.
func (r *trial) started(t *testing.T, template *modelv1.TaskTemplate) (exec.Spec, exec.Controller) {
	t.Helper()
	s := r.spec(template)
	c := r.runtime().Task(s)
	r.cleanup(t, c)
	must(t, "prepare", c.Prepare(r.ctx))
	must(t, "start", c.Start(r.ctx))
	return s, c
}

func (r *trial) cleanup(t *testing.T, c exec.Controller) {
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(r.ctx), r.Patience)
		defer stop()
		must(t, "clean up", c.Remove(ctx))
	})
}

// listed returns the task's container as List shows it.
func (r *trial) listed(t *testing.T, task id.ID) (exec.Container, bool) {
	t.Helper()
	all, err := r.runtime().List(r.ctx)
	must(t, "list", err)
	i := slices.IndexFunc(all, func(c exec.Container) bool { return c.Task == task })
	if i < 0 {
		return exec.Container{}, false
	}
	return all[i], true
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantListed(t *testing.T, c exec.Container, started, running bool) {
	t.Helper()
	if c.Started != started || c.Running != running {
		t.Errorf("listed started %v running %v, want %v and %v", c.Started, c.Running, started, running)
	}
}

func lifecycle(t *testing.T, r *trial) {
	s := r.spec(r.Forever)
	c := r.runtime().Task(s)
	r.cleanup(t, c)
	must(t, "prepare", c.Prepare(r.ctx))
	l, ok := r.listed(t, s.Task)
	if !ok {
		t.Fatal("a prepared container is not listed")
	}
	wantListed(t, l, false, false)
	if l.ID != c.ContainerID() || l.Service != s.Service || l.CreatedIndex != s.CreatedIndex {
		t.Errorf("listed %+v, want id %s service %s index %d", l, c.ContainerID(), s.Service, s.CreatedIndex)
	}
	must(t, "start", c.Start(r.ctx))
	if l, _ = r.listed(t, s.Task); l.Exit != nil {
		t.Errorf("a running container is listed with exit %+v", *l.Exit)
	}
	wantListed(t, l, true, true)
	must(t, "shut down", c.Shutdown(r.ctx))
	if l, ok = r.listed(t, s.Task); !ok {
		t.Fatal("a stopped container is not listed")
	}
	wantListed(t, l, true, false)
	if _, err := c.Wait(r.ctx); err != nil {
		t.Errorf("wait after shutdown: %v, want an exit", err)
	}
	must(t, "remove", c.Remove(r.ctx))
	if _, ok = r.listed(t, s.Task); ok {
		t.Error("a removed container is still listed")
	}
}

func repeats(t *testing.T, r *trial) {
	s, c := r.started(t, r.Forever)
	must(t, "prepare again", c.Prepare(r.ctx))
	must(t, "start again", c.Start(r.ctx))
	if l, _ := r.listed(t, s.Task); !l.Running {
		t.Error("the container does not run after it was started twice")
	}
	for range 2 {
		must(t, "shut down", c.Shutdown(r.ctx))
	}
	for range 2 {
		must(t, "remove", c.Remove(r.ctx))
	}
}

func exits(t *testing.T, r *trial) {
	for _, code := range []int32{0, 3} {
		s, c := r.started(t, r.Exits(code))
		for range 2 {
			exit, err := c.Wait(r.ctx)
			must(t, "wait", err)
			if exit.Code != code || exit.OOM {
				t.Errorf("exit %+v, want code %d", exit, code)
			}
		}
		l, ok := r.listed(t, s.Task)
		if !ok || l.Exit == nil || l.Exit.Code != code {
			t.Errorf("listed %+v, want its exit with code %d", l, code)
		}
	}
}

func startsOnce(t *testing.T, r *trial) {
	s, c := r.started(t, r.Exits(5))
	_, err := c.Wait(r.ctx)
	must(t, "wait", err)
	for _, again := range []exec.Controller{c, r.runtime().Task(s)} {
		must(t, "prepare again", again.Prepare(r.ctx))
		must(t, "start again", again.Start(r.ctx))
		exit, err := again.Wait(r.ctx)
		must(t, "wait again", err)
		if exit.Code != 5 {
			t.Errorf("exit code %d after another start, want 5", exit.Code)
		}
		if l, _ := r.listed(t, s.Task); l.Running {
			t.Error("a container that had ended runs again")
		}
	}
}

func outlives(t *testing.T, r *trial) {
	s, _ := r.started(t, r.Forever)
	l, ok := r.listed(t, s.Task) // of a new runtime
	if !ok || !l.Running {
		t.Fatalf("after a restart of the agent: listed %+v, %v; want it running", l, ok)
	}
	c := r.runtime().Task(s)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Wait(r.ctx)
		ended <- err
	}()
	must(t, "shut down", r.runtime().Task(s).Shutdown(r.ctx))
	must(t, "wait", <-ended)
}

func rejects(t *testing.T, r *trial) {
	for name, template := range map[string]*modelv1.TaskTemplate{"missing image": r.Missing, "no template": nil} {
		c := r.runtime().Task(r.spec(template))
		r.cleanup(t, c)
		err := c.Prepare(r.ctx)
		if !errors.Is(err, exec.ErrRejected) {
			t.Errorf("%s: prepare: %v, want it rejected", name, err)
		}
	}
}

func absent(t *testing.T, r *trial) {
	c := r.runtime().Task(r.spec(r.Forever))
	if err := c.Start(r.ctx); !errors.Is(err, exec.ErrGone) {
		t.Errorf("start: %v, want %v", err, exec.ErrGone)
	}
	if _, err := c.Wait(r.ctx); !errors.Is(err, exec.ErrGone) {
		t.Errorf("wait: %v, want %v", err, exec.ErrGone)
	}
	must(t, "shut down", c.Shutdown(r.ctx))
	must(t, "remove", c.Remove(r.ctx))
}

// cutShort cuts a creation short at every stage a deadline can reach. What is
// left, if anything, was never started, and is listed, or a sweep could not find
// it; a runtime may still be at it, so what comes late is listed and removed too.
func cutShort(t *testing.T, r *trial) {
	rt := r.runtime()
	for after := time.Duration(0); ; after = 2*after + 50*time.Microsecond {
		s := r.spec(r.Forever)
		c := rt.Task(s)
		ctx, stop := context.WithTimeout(r.ctx, after)
		err := c.Prepare(ctx)
		stop()
		for left := r.find(t, rt, s); ; left = r.find(t, rt, s) {
			if left != nil && left.Started {
				t.Errorf("cut short after %v it is listed %+v", after, *left)
			}
			must(t, "remove", c.Remove(r.ctx))
			if left == nil {
				break
			}
		}
		if err == nil {
			return
		}
	}
}

// find returns a task's container as it is listed, or nil.
func (r *trial) find(t *testing.T, rt exec.Runtime, s exec.Spec) *exec.Container {
	t.Helper()
	all, err := rt.List(r.ctx)
	must(t, "list", err)
	if i := slices.IndexFunc(all, func(c exec.Container) bool { return c.Task == s.Task }); i >= 0 {
		return &all[i]
	}
	return nil
}

func foreign(t *testing.T, r *trial) {
	s, _ := r.started(t, r.Forever)
	for name, other := range map[string]exec.Runtime{
		"node":    r.host(r.cluster, id.New()),
		"cluster": r.host(id.New(), r.node),
	} {
		all, err := other.List(r.ctx)
		must(t, "list", err)
		if slices.ContainsFunc(all, func(c exec.Container) bool { return c.Task == s.Task }) {
			t.Errorf("a container is listed for another %s", name)
		}
	}
}

func removesRunning(t *testing.T, r *trial) {
	s, c := r.started(t, r.Forever)
	must(t, "remove", c.Remove(r.ctx))
	if _, ok := r.listed(t, s.Task); ok {
		t.Error("a removed container is still listed")
	}
}

func waitEnds(t *testing.T, r *trial) {
	_, c := r.started(t, r.Forever)
	ctx, stop := context.WithTimeout(r.ctx, 10*time.Millisecond)
	defer stop()
	if _, err := c.Wait(ctx); err == nil {
		t.Error("wait on a running container returned an exit")
	}
}

func stopsWithoutTemplate(t *testing.T, r *trial) {
	s, _ := r.started(t, r.Forever)
	c := r.runtime().Task(exec.Spec{Cluster: s.Cluster, Node: s.Node, Task: s.Task, Service: s.Service})
	must(t, "shut down", c.Shutdown(r.ctx))
	must(t, "remove", c.Remove(r.ctx))
	if _, ok := r.listed(t, s.Task); ok {
		t.Error("a removed container is still listed")
	}
}

func describes(t *testing.T, r *trial) {
	d, err := r.runtime().Describe(r.ctx)
	must(t, "describe", err)
	if d.GetOs() == "" || d.GetArchitecture() == "" || d.GetRuntime() == "" ||
		d.GetResources().GetNanoCpus() <= 0 || d.GetResources().GetMemoryBytes() <= 0 {
		t.Errorf("description %v: want os, architecture, runtime, CPUs and memory", d)
	}
}
