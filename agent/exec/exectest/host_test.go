package exectest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func template(image string, args ...string) *modelv1.TaskTemplate {
	return &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: image, Args: args}}
}

func TestTheFakeKeepsThePromises(t *testing.T) {
	t.Parallel()
	Conform(t, Bench{
		Host:    func(*testing.T) func(cluster, node id.ID) exec.Runtime { return NewHost().Runtime },
		Forever: template("app"),
		Exits: func(code int32) *modelv1.TaskTemplate {
			return template("app", "exit", strconv.Itoa(int(code)))
		},
		Missing: template("docker.io/library/missing:latest"),
	})
}

func ready(t *testing.T, h *Host, template *modelv1.TaskTemplate) exec.Controller {
	t.Helper()
	s := exec.Spec{Task: id.New(), Template: template}
	c := h.Runtime(id.ID{}, id.ID{}).Task(s)
	if err := errors.Join(c.Prepare(t.Context()), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAContainerThatIgnoresTheSignalIsKilledAfterItsGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHost()
		h.SetScript(func(exec.Spec) Script { return Script{StopDelay: time.Hour} })
		c := ready(t, h, &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{StopGracePeriod: int64(3 * time.Second)}})
		began := time.Now()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		exit, err := c.Wait(t.Context())
		if took := time.Since(began); err != nil || exit.Code != 137 || took != 3*time.Second {
			t.Errorf("exit %+v, %v after %v; want code 137 after 3s", exit, err, took)
		}
	})
}

func TestARuntimeThatIsDownIsNeverAnExit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHost()
		c := ready(t, h, template("app"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Wait(t.Context()); !exec.Unavailable(err) {
				t.Errorf("wait: %v, want unavailable", err)
			}
		})
		synctest.Wait()
		h.SetDown(true)
		wg.Wait()
		if err := c.Shutdown(t.Context()); !exec.Unavailable(err) {
			t.Errorf("shut down: %v, want unavailable", err)
		}
		h.SetDown(false)
		if got := h.Running(); len(got) != 1 {
			t.Errorf("running %v after the runtime came back, want the one container", got)
		}
	})
}

func TestARebootLosesTheExit(t *testing.T) {
	t.Parallel()
	h := NewHost()
	c := ready(t, h, template("app"))
	h.Reboot()
	if _, err := c.Wait(t.Context()); !errors.Is(err, exec.ErrGone) {
		t.Errorf("wait: %v, want %v", err, exec.ErrGone)
	}
	if err := c.Start(t.Context()); err != nil || len(h.Running()) != 0 {
		t.Errorf("start: %v with %v running, want nothing to happen", err, h.Running())
	}
}

func TestASlowPullStopsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHost()
		h.SetScript(func(exec.Spec) Script { return Script{PrepareDelay: time.Hour} })
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		c := h.Runtime(id.ID{}, id.ID{}).Task(exec.Spec{Task: id.New(), Template: template("app")})
		if err := c.Prepare(ctx); !errors.Is(err, context.DeadlineExceeded) || len(h.Tasks()) != 1 {
			t.Errorf("prepare: %v with %v, want the deadline and what it left", err, h.Tasks())
		}
		if err := c.Start(t.Context()); !errors.Is(err, exec.ErrGone) {
			t.Errorf("start of what was left: %v, want %v", err, exec.ErrGone)
		}
		if err := c.Remove(t.Context()); err != nil || len(h.Tasks()) != 0 {
			t.Errorf("remove: %v with %v, want nothing left", err, h.Tasks())
		}
	})
}
