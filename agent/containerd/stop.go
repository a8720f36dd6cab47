package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/agent/exec"
)

// Shutdown stops the container: signal, grace, kill.
func (c *controller) Shutdown(ctx context.Context) error {
	ctx = c.ours(ctx)
	found, labels, err := c.bar(ctx)
	if err != nil || found == nil {
		return err
	}
	stop, grace := c.manner(labels)
	if done, err := c.signal(ctx, found, stop); err != nil || done {
		return err
	}
	gracious, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	_, err = c.Wait(gracious)
	switch {
	case err == nil || errors.Is(err, exec.ErrGone):
		return nil
	case gracious.Err() == nil || ctx.Err() != nil:
		return err
	}
	return c.kill(ctx, found)
}

// bar makes sure that the container is not started from now on, and returns it
// if it has a process that runs. A process that was made and never started is
// removed here.
func (c *controller) bar(ctx context.Context) (client.Container, map[string]string, error) {
	leave, err := c.lanes.enter(ctx, c.ContainerID())
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	found, labels, err := c.load(ctx)
	if errors.Is(err, exec.ErrGone) {
		return nil, nil, nil
	}
	if err != nil || exitOf(labels) != nil {
		return nil, nil, err
	}
	if _, err := found.SetLabels(ctx, map[string]string{labelBarred: "true"}); err != nil {
		return nil, nil, c.words("shut down container "+found.ID(), err)
	}
	alive, err := c.alive(ctx, found)
	if err != nil || !alive {
		return nil, nil, err
	}
	return found, labels, nil
}

// alive reports whether a container has a process that runs, and clears away
// one that does not. The caller is in the container's lane.
func (c *controller) alive(ctx context.Context, found client.Container) (bool, error) {
	what := "shut down container " + found.ID()
	task, err := found.Task(ctx, nil)
	if err != nil {
		return false, c.words(what, ignoreNotFound(err))
	}
	status, err := task.Status(ctx)
	switch {
	case err != nil:
		return false, c.words(what, ignoreNotFound(err))
	case status.Status == client.Stopped:
		_, err := c.settleInLane(ctx, found, exitAt(status))
		return false, err
	case status.Status == client.Created:
		_, err := task.Delete(ctx, client.WithProcessKill)
		return false, c.words(what, ignoreNotFound(err))
	}
	return true, nil
}

// manner returns how to stop the container: as its labels say, and where the
// template is known, with the template's grace.
func (c *controller) manner(labels map[string]string) (syscall.Signal, time.Duration) {
	stop := syscall.SIGTERM
	if n, err := strconv.Atoi(labels[labelSignal]); err == nil && n > 0 {
		stop = syscall.Signal(n)
	}
	grace := c.spec.StopGrace()
	if c.spec.Template == nil {
		if d, err := time.ParseDuration(labels[labelGrace]); err == nil {
			grace = d
		}
	}
	return stop, grace
}

// signal sends a signal to the container's process; done means there is none
// any more.
func (c *controller) signal(ctx context.Context, found client.Container, sig syscall.Signal) (done bool, err error) {
	task, err := found.Task(ctx, nil)
	if err == nil {
		err = task.Kill(ctx, sig)
	}
	switch {
	case err == nil:
		return false, nil
	case errdefs.IsNotFound(err):
		return c.ended(ctx)
	default:
		return false, c.words(fmt.Sprintf("signal %v to container %s", sig, found.ID()), err)
	}
}

// ended waits for the exit of a process that was just found dead to be written
// down.
func (c *controller) ended(ctx context.Context) (bool, error) {
	_, err := c.Wait(ctx)
	if errors.Is(err, exec.ErrGone) {
		err = nil
	}
	return true, err
}

// kill kills the container and returns when it is dead.
func (c *controller) kill(ctx context.Context, found client.Container) error {
	for {
		if done, err := c.signal(ctx, found, syscall.SIGKILL); err != nil || done {
			return err
		}
		again, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := c.Wait(again)
		cancel()
		switch {
		case err == nil || errors.Is(err, exec.ErrGone):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("kill container %s: %w", found.ID(), ctx.Err())
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

// Remove removes the container, its snapshot and its directory, or what a
// creation that was cut short left of them.
func (c *controller) Remove(ctx context.Context) error {
	ctx = c.ours(ctx)
	found, _, err := c.bar(ctx)
	if err == nil && found != nil {
		err = c.kill(ctx, found)
	}
	if err != nil {
		return err
	}
	leave, err := c.lanes.enter(ctx, c.ContainerID())
	if err != nil {
		return err
	}
	defer leave()
	if err := c.erase(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(c.taskDir(c.ContainerID())); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ContainerID(), err)
	}
	return nil
}

// erase removes what containerd holds of the container, or of one that was never
// made whole.
func (c *controller) erase(ctx context.Context) error {
	found, _, err := c.load(ctx)
	if errors.Is(err, exec.ErrGone) {
		return c.words("remove container "+c.ContainerID(), c.discard(ctx))
	}
	if err == nil {
		err = c.clear(ctx, found)
	}
	if err == nil {
		err = ignoreNotFound(found.Delete(ctx, client.WithSnapshotCleanup))
	}
	return c.words("remove container "+c.ContainerID(), err)
}
