package containerd

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/client"

	"github.com/skep-project/skep/agent/exec"
)

// relook is how often a wait looks at the container again although it was told
// nothing; retry is how long it leaves a containerd alone that does not answer.
const (
	relook = time.Minute
	retry  = 250 * time.Millisecond
)

// Wait returns how the container ended. It outlasts a restart of containerd:
// while that is away the container's shim is asked, because a containerd that
// comes back forgets what ended in its absence.
func (c *controller) Wait(ctx context.Context) (exec.Exit, error) {
	ctx = c.ours(ctx)
	w := watch{controller: c}
	defer w.shim.close()
	for {
		end, err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return exec.Exit{}, ctx.Err()
		case err == nil && end != nil:
			return *end, nil
		case err != nil && !exec.Unavailable(err):
			return exec.Exit{}, err
		}
	}
}

// watch is one wait: it goes round until it has seen the end.
type watch struct {
	*controller
	shim shim
	// seen is the end as the shim told it, while containerd cannot write it down.
	seen *exec.Exit
}

// look reads where the container stands and waits for what comes next. No exit
// and no error: look again.
func (w *watch) look(ctx context.Context) (*exec.Exit, error) {
	heard := w.started.heard() // before reading, so that no start is missed
	found, labels, err := w.load(ctx)
	if err != nil {
		if exec.Unavailable(err) {
			w.pause(ctx)
		}
		return nil, err
	}
	if end := exitOf(labels); end != nil {
		return end, nil
	}
	if w.seen != nil {
		return w.settled(ctx, found, *w.seen)
	}
	task, err := found.Task(ctx, nil)
	switch {
	case noTask(err) && labels[labelBarred] != "":
		return nil, fmt.Errorf("container %s was shut down before it started: %w", found.ID(), exec.ErrGone)
	case noTask(err) && labels[labelStarted] != "":
		return w.lost(ctx, found)
	case noTask(err):
		idle(ctx, heard, 2*time.Second)
		return nil, nil
	case err != nil:
		w.pause(ctx)
		return nil, nil
	}
	return w.follow(ctx, found, task, heard)
}

// lost is the end of a container that containerd has forgotten. Its shim may
// have been asked in time, by us or by who started containerd (see Keep).
func (w *watch) lost(ctx context.Context, found client.Container) (*exec.Exit, error) {
	asking, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if end := w.shim.wait(asking, found.ID()); end != nil {
		return w.settled(ctx, found, *end)
	}
	// Whoever started containerd may know, and be about to write it down.
	<-asking.Done()
	labels, err := found.Labels(ctx)
	if err != nil {
		return nil, w.words("container "+found.ID(), err)
	}
	if end := exitOf(labels); end != nil {
		return end, nil
	}
	return nil, fmt.Errorf("container %s has ended, and how is not known: %w", found.ID(), exec.ErrGone)
}

// follow waits with a process that exists.
func (w *watch) follow(ctx context.Context, found client.Container, task client.Task, heard <-chan struct{}) (*exec.Exit, error) {
	status, err := task.Status(ctx)
	switch {
	case err != nil:
		w.pause(ctx)
		return nil, nil
	case status.Status == client.Stopped:
		return w.settled(ctx, found, exitAt(status))
	case status.Status == client.Created:
		idle(ctx, heard, 2*time.Second)
		return nil, nil
	}
	w.shim.find(task.Pid())
	waiting, stop := context.WithTimeout(ctx, relook)
	defer stop()
	ended, err := task.Wait(waiting)
	if err != nil {
		return nil, w.words("wait for container "+found.ID(), err)
	}
	// An end with an error is containerd's end, not the container's.
	if e := <-ended; e.Error() == nil {
		code, at, _ := e.Result()
		return w.settled(ctx, found, exec.Exit{Code: int32(code), At: at})
	}
	if waiting.Err() == nil {
		w.pause(ctx)
	}
	return nil, nil
}

func (w *watch) settled(ctx context.Context, found client.Container, end exec.Exit) (*exec.Exit, error) {
	end, err := w.settle(ctx, found, end)
	if err != nil {
		return nil, err
	}
	return &end, nil
}

// pause lets a containerd that does not answer come back, listening to the
// container's shim meanwhile.
func (w *watch) pause(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, retry)
	defer stop()
	if w.seen == nil {
		w.seen = w.shim.wait(ctx, w.ContainerID())
		if w.seen != nil { // the cgroup may be gone when containerd is back
			w.seen.OOM = oomKills(cgroupRoot, w.cgroup(w.spec.Task)) > 0
		}
	}
	<-ctx.Done()
}

// idle waits for a knock, at most d.
func idle(ctx context.Context, knock <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-knock:
	case <-t.C:
	}
}
