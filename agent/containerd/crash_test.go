package containerd_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// trigger returns a template whose container ends with code 9 once the file
// "go" appears in dir, and the function that makes it appear.
func (s *stand) trigger() (*modelv1.TaskTemplate, func()) {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.Dir, "trigger")
	s.must(err)
	tmpl := shell("until [ -e /trigger/go ]; do sleep 0.02; done; exit 9")
	tmpl.Container.Mounts = []*modelv1.Mount{{
		Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: dir, Target: "/trigger", ReadOnly: true,
	}}
	return tmpl, func() { s.must(os.WriteFile(filepath.Join(dir, "go"), nil, 0o644)) }
}

// waiting waits for a task's end in the background.
func (s *stand) waiting(c exec.Controller) <-chan exec.Exit {
	ended := make(chan exec.Exit, 1)
	go func() {
		end, err := c.Wait(s.ctx)
		if err != nil {
			s.t.Errorf("wait: %v", err)
		}
		ended <- end
	}()
	return ended
}

// crash kills containerd and returns when its process has gone.
func (s *stand) crash() int {
	s.t.Helper()
	pid := s.PID(s.t)
	s.must(syscall.Kill(pid, syscall.SIGKILL))
	return pid
}

func (s *stand) listed(r exec.Runtime, spec exec.Spec) exec.Container {
	s.t.Helper()
	all, err := r.List(s.ctx)
	s.must(err)
	for _, c := range all {
		if c.Task == spec.Task {
			return c
		}
	}
	s.t.Fatalf("task %s is not listed", spec.Task)
	return exec.Container{}
}

// answered waits until containerd answers again.
func (s *stand) answered() {
	s.t.Helper()
	s.eventually("containerd answers", func() bool {
		_, err := s.runtime.List(s.ctx)
		return err == nil
	})
}

func TestAContainerOutlivesItsContainerd(t *testing.T) {
	s := newStand(t)
	tmpl, release := s.trigger()
	spec, c := s.start(tmpl)
	ended := s.waiting(c)
	old := s.crash()
	s.eventually("containerd is started again", func() bool { return s.PID(t) != old })
	s.answered()
	if l := s.listed(s.runtime, spec); !l.Running || l.Exit != nil {
		t.Errorf("after the crash it is listed %+v, want it running", l)
	}
	release()
	if end := <-ended; end.Code != 9 {
		t.Errorf("ended %+v, want code 9", end)
	}
	if l := s.listed(s.runtime, spec); l.Exit == nil || l.Exit.Code != 9 {
		t.Errorf("listed %+v, want exit code 9", l)
	}
}

func TestAnEndInTheAbsenceOfContainerdIsKnown(t *testing.T) {
	s := newStand(t)
	tmpl, release := s.trigger()
	spec, c := s.start(tmpl)
	seen := s.waiting(c)
	s.eventually("the wait follows the container", func() bool { return s.listed(s.runtime, spec).Running })
	process := s.containerPID(spec)
	s.Halt() // nobody starts containerd again
	s.crash()
	s.eventually("containerd is away", func() bool {
		_, err := s.runtime.List(s.ctx)
		return exec.Unavailable(err)
	})
	release()
	s.eventually("the container has ended", func() bool { return syscall.Kill(process, 0) != nil })
	s.Supervise(t)
	if end := <-seen; end.Code != 9 {
		t.Errorf("ended %+v, want code 9", end)
	}
	if l := s.listed(s.runtime, spec); l.Running || l.Exit == nil || l.Exit.Code != 9 {
		t.Errorf("listed %+v, want exit code 9", l)
	}
}

func TestAContainerOutlivesAgentAndContainerd(t *testing.T) {
	s := newStand(t)
	tmpl, release := s.trigger()
	spec, _ := s.start(tmpl)
	s.Halt()
	s.crash()
	s.Supervise(t)
	agent := s.newRuntime(s.cluster, s.node)
	if l := s.listed(agent, spec); !l.Running || !l.Started || l.CreatedIndex != spec.CreatedIndex {
		t.Fatalf("after both died it is listed %+v, want it running", l)
	}
	c := agent.Task(spec)
	s.must(c.Prepare(s.ctx))
	s.must(c.Start(s.ctx))
	ended := s.waiting(c)
	release()
	if end := <-ended; end.Code != 9 {
		t.Errorf("ended %+v, want code 9", end)
	}
}

func TestAnEndInTheAbsenceOfAgentAndContainerdIsKnown(t *testing.T) {
	s := newStand(t)
	tmpl, release := s.trigger()
	spec, _ := s.start(tmpl)
	process := s.containerPID(spec)
	s.Halt()
	s.must(s.runtime.Close())
	s.crash()
	release()
	s.eventually("the container has ended", func() bool { return syscall.Kill(process, 0) != nil })
	s.Supervise(t)
	agent := s.newRuntime(s.cluster, s.node)
	if l := s.listed(agent, spec); l.Running || !l.Started || l.Exit == nil || l.Exit.Code != 9 {
		t.Errorf("listed %+v, want exit code 9", l)
	}
	end, err := agent.Task(spec).Wait(s.ctx)
	if err != nil || end.Code != 9 {
		t.Errorf("wait: %+v, %v; want code 9", end, err)
	}
}

func TestAnEndInTheAbsenceOfTheAgentIsKnown(t *testing.T) {
	s := newStand(t)
	tmpl, release := s.trigger()
	spec, _ := s.start(tmpl)
	s.must(s.runtime.Close())
	release()
	agent := s.newRuntime(s.cluster, s.node)
	s.eventually("the exit is listed", func() bool { return s.listed(agent, spec).Exit != nil })
	end, err := agent.Task(spec).Wait(s.ctx)
	if err != nil || end.Code != 9 {
		t.Errorf("wait: %+v, %v; want code 9", end, err)
	}
}

func TestAContainerThatWasNeverStartedIsBarredByShutdown(t *testing.T) {
	s := newStand(t)
	c := s.runtime.Task(s.spec(shell("exit 3")))
	s.must(c.Prepare(s.ctx))
	s.must(c.Shutdown(s.ctx))
	if err := c.Start(s.ctx); err == nil {
		t.Error("it was started after it was shut down")
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	if _, err := c.Wait(ctx); err == nil {
		t.Error("it has an exit, want none")
	}
	s.must(c.Remove(s.ctx))
}
