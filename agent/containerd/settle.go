package containerd

import (
	"context"
	"log/slog"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/agent/exec"
)

// settle writes down how a container ended and then removes what is left of its
// process. It may be called by everyone who sees the end: the first writes, and
// all return the same.
func (r *Runtime) settle(ctx context.Context, c client.Container, end exec.Exit) (exec.Exit, error) {
	leave, err := r.lanes.enter(ctx, c.ID())
	if err != nil {
		return exec.Exit{}, err
	}
	defer leave()
	return r.settleInLane(ctx, c, end)
}

func (r *Runtime) settleInLane(ctx context.Context, c client.Container, end exec.Exit) (exec.Exit, error) {
	labels, err := c.Labels(ctx)
	if err != nil {
		return exec.Exit{}, r.words("settle container "+c.ID(), err)
	}
	if known := exitOf(labels); known != nil {
		end = *known
	} else {
		end.OOM = end.Code != 0 && (end.OOM || r.oomKilled(ctx, c))
		if _, err := c.SetLabels(ctx, exitLabels(end)); err != nil {
			return exec.Exit{}, r.words("write down the exit of container "+c.ID(), err)
		}
	}
	// The exit is safe. A process that cannot be cleared away now is cleared
	// away with the container.
	if err := r.clear(ctx, c); err != nil && !exec.Unavailable(err) {
		r.cfg.Log.WarnContext(ctx, "ended container not cleared away", slog.String("container", c.ID()), slog.Any("err", err))
	}
	return end, nil
}

// clear removes the dead process of a container, and with it its shim and its
// cgroup. No process is fine.
func (r *Runtime) clear(ctx context.Context, c client.Container) error {
	task, err := c.Task(ctx, nil)
	if err != nil {
		return ignoreNotFound(err)
	}
	_, err = task.Delete(ctx)
	return ignoreNotFound(err)
}

// oomKilled reports whether the kernel killed something in the container's
// cgroup for want of memory.
func (r *Runtime) oomKilled(ctx context.Context, c client.Container) bool {
	spec, err := c.Spec(ctx)
	if err != nil || spec.Linux == nil {
		return false
	}
	return oomKills(cgroupRoot, spec.Linux.CgroupsPath) > 0
}

// exitAt returns how a stopped task ended.
func exitAt(s client.Status) exec.Exit {
	end := exec.Exit{Code: int32(s.ExitStatus)}
	if s.ExitTime.After(time.Unix(0, 0)) {
		end.At = s.ExitTime
	}
	return end
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// noTask reports whether an error of loading a task says that there is none.
func noTask(err error) bool { return errdefs.IsNotFound(err) }
