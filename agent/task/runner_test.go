package task

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// stage is a host, one task on it, and what its runner has reported.
type stage struct {
	host *exectest.Host
	spec exec.Spec

	mu      sync.Mutex
	reports []*modelv1.TaskStatus
}

func newStage() *stage {
	return &stage{host: exectest.NewHost(), spec: exec.Spec{
		Task: id.New(), ServiceName: "web", Slot: 1,
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "web"}},
	}}
}

func (s *stage) report(_ context.Context, status *modelv1.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, status)
}

// last returns the newest status and the names of all states so far.
func (s *stage) last() (*modelv1.TaskStatus, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, r := range s.reports {
		names = append(names, taskstate.Name(r.GetState()))
	}
	if len(s.reports) == 0 {
		return nil, ""
	}
	return s.reports[len(s.reports)-1], strings.Join(names, " ")
}

func (s *stage) runner(desired State, status *modelv1.TaskStatus) *Runner {
	return NewRunner(Config{
		Name: s.spec.Name(), Controller: s.host.Runtime(s.spec.Cluster, s.spec.Node).Task(s.spec),
		Desired: desired, Status: status, Report: s.report, Log: slog.New(slog.DiscardHandler),
	})
}

func (s *stage) want(t *testing.T, states string) *modelv1.TaskStatus {
	t.Helper()
	synctest.Wait()
	last, got := s.last()
	if got != states {
		t.Errorf("reported %q, want %q", got, states)
	}
	return last
}

func TestATaskRunsUntilItIsToldToStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		r := s.runner(taskstate.Ready, nil)
		go r.Run(t.Context())
		s.want(t, "accepted preparing ready")
		r.SetDesired(taskstate.Running)
		s.want(t, "accepted preparing ready starting running")
		r.SetDesired(taskstate.Shutdown)
		got := s.want(t, "accepted preparing ready starting running shutdown")
		if got.ExitCode == nil || got.GetExitCode() != 0 {
			t.Errorf("shut down with %v, want exit code 0", got)
		}
	})
}

func TestATaskThatEndsByItself(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		exit  exec.Exit
		state State
		err   string
	}{
		{exec.Exit{}, taskstate.Complete, ""},
		{exec.Exit{Code: 7}, taskstate.Failed, "task: non-zero exit (7)"},
		{exec.Exit{Code: 137, OOM: true}, taskstate.Failed, "task: non-zero exit (137): out of memory"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage()
			s.host.SetScript(func(exec.Spec) exectest.Script {
				return exectest.Script{Ends: true, RunFor: time.Minute, Exit: tt.exit}
			})
			r := s.runner(taskstate.Running, nil)
			if err := r.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, _ := s.last()
			if got.GetState() != tt.state || got.GetError() != tt.err || got.GetExitCode() != tt.exit.Code {
				t.Errorf("exit %+v: %v, want %s and %q", tt.exit, got, taskstate.Name(tt.state), tt.err)
			}
		})
	}
}

func TestAMissingImageIsRejectedWithItsReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.spec.Template.Container.Image = "missing"
		if err := s.runner(taskstate.Running, nil).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.want(t, "accepted preparing rejected"); got.GetError() != "no such image: missing" {
			t.Errorf("rejected because of %q", got.GetError())
		}
	})
}

func TestAStopBreaksOffAPullAndNothingIsStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.host.SetScript(func(exec.Spec) exectest.Script { return exectest.Script{PrepareDelay: time.Hour} })
		r := s.runner(taskstate.Running, nil)
		began := time.Now()
		go r.Run(t.Context())
		s.want(t, "accepted preparing")
		r.SetDesired(taskstate.Shutdown)
		r.SetDesired(taskstate.Running) // never moves back
		s.want(t, "accepted preparing shutdown")
		if time.Since(began) > time.Second || s.host.Starts(s.spec.Task) != 0 {
			t.Errorf("took %v and started %d times", time.Since(began), s.host.Starts(s.spec.Task))
		}
	})
}

func TestARuntimeThatIsDownForADayEndsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.host.SetDown(true)
		go s.runner(taskstate.Running, nil).Run(t.Context())
		time.Sleep(24 * time.Hour)
		s.want(t, "accepted preparing")
		s.host.SetDown(false)
		time.Sleep(11 * time.Second)
		s.want(t, "accepted preparing ready starting running")
		s.host.SetDown(true)
		time.Sleep(24 * time.Hour)
		s.host.SetDown(false)
		s.want(t, "accepted preparing ready starting running")
		s.host.Exit(s.spec.Task, exec.Exit{Code: 2})
		time.Sleep(11 * time.Second)
		s.want(t, "accepted preparing ready starting running failed")
	})
}

func TestARestartedAgentGoesOnWhereItStood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		ctx, stop := context.WithCancel(t.Context())
		var first sync.WaitGroup
		first.Go(func() { _ = s.runner(taskstate.Running, nil).Run(ctx) })
		synctest.Wait()
		stop()
		first.Wait()
		if got := s.host.Running(); !slices.Equal(got, []id.ID{s.spec.Task}) {
			t.Fatalf("running %v after the runner ended, want its task", got)
		}
		s.reports = nil
		go s.runner(taskstate.Running, &modelv1.TaskStatus{State: taskstate.Running}).Run(t.Context())
		s.want(t, "")
		s.host.Exit(s.spec.Task, exec.Exit{Code: 1})
		s.want(t, "failed")
		if n := s.host.Starts(s.spec.Task); n != 1 {
			t.Errorf("started %d times, want once", n)
		}
	})
}

func TestARebootFailsTheTask(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		go s.runner(taskstate.Running, nil).Run(t.Context())
		synctest.Wait()
		s.host.Reboot()
		if got := s.want(t, "accepted preparing ready starting running failed"); got.GetError() != "task: container was lost: the container is gone" {
			t.Errorf("failed because of %q", got.GetError())
		}
	})
}

// broken is a controller that panics when it is started.
type broken struct{ exec.Controller }

func (broken) Start(context.Context) error { panic("nil map") }

func TestAPanicFailsItsTaskOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		r := s.runner(taskstate.Running, nil)
		r.ctrl = broken{r.ctrl}
		if err := r.Run(t.Context()); err == nil {
			t.Error("run returned no error after a panic")
		}
		if got := s.want(t, "accepted preparing ready starting failed"); !strings.Contains(got.GetError(), "nil map") {
			t.Errorf("failed because of %q, want the words of the panic", got.GetError())
		}
	})
}
