package exectest

import (
	"context"
	"errors"
	"time"

	"github.com/skep-project/skep/agent/exec"
)

// container is one container of a host; the host's mutex guards it.
type container struct {
	spec    exec.Spec
	started bool
	running bool
	lost    bool // it ran, and nobody saw how it ended
	exit    *exec.Exit
	news    chan struct{} // closed and replaced when anything above changes
}

// changed wakes everyone who waits for the container.
func (c *container) changed() {
	close(c.news)
	c.news = make(chan struct{})
}

// end ends the container if it runs, and reports whether it did.
func (c *container) end(exit exec.Exit) bool {
	if !c.running {
		return false
	}
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	c.running, c.exit = false, &exit
	c.changed()
	return true
}

func (c *container) listed() exec.Container {
	l := exec.Container{
		Task: c.spec.Task, Service: c.spec.Service, ID: containerID(c.spec),
		CreatedIndex: c.spec.CreatedIndex, Started: c.started, Running: c.running,
	}
	if c.exit != nil {
		exit := *c.exit
		l.Exit = &exit
	}
	return l
}

func containerID(s exec.Spec) string { return "fake-" + s.Task.String() }

// controller leads one task's container on a host.
type controller struct {
	host *Host
	spec exec.Spec
}

func (c *controller) ContainerID() string { return containerID(c.spec) }

// find returns the container, which may be nil, its news channel and script.
func (c *controller) find() (found *container, news <-chan struct{}, script Script, err error) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.down {
		return nil, nil, Script{}, exec.ErrUnavailable
	}
	if found = c.host.containers[c.spec.Task]; found != nil {
		news = found.news
	}
	return found, news, c.host.script(c.spec), nil
}

func (c *controller) Prepare(ctx context.Context) error {
	found, _, script, err := c.find()
	if err != nil || found != nil {
		return err
	}
	if c.spec.Template.GetContainer() == nil {
		return exec.Rejected(errors.New("the task has no container template"))
	}
	if _, err := exec.Expand(c.spec); err != nil {
		return err
	}
	if err := pause(ctx, script.PrepareDelay); err != nil {
		c.leave()
		return err
	}
	if script.PrepareErr != nil {
		return script.PrepareErr
	}
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.down {
		return exec.ErrUnavailable
	}
	delete(c.host.remnants, c.spec.Task)
	if c.host.containers[c.spec.Task] == nil {
		c.host.containers[c.spec.Task] = &container{spec: c.spec, news: make(chan struct{})}
	}
	return nil
}

// leave leaves what a creation that was cut short had made.
func (c *controller) leave() {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.containers[c.spec.Task] == nil {
		c.host.remnants[c.spec.Task] = c.spec
	}
}

func (c *controller) Start(ctx context.Context) error {
	found, _, script, err := c.find()
	switch {
	case err != nil:
		return err
	case found == nil:
		return exec.ErrGone
	}
	if c.ever(found) {
		return nil
	}
	if err := pause(ctx, script.StartDelay); err != nil {
		return err
	}
	if script.StartErr != nil {
		return script.StartErr
	}
	return c.launch(script)
}

// ever reports whether the container was started before.
func (c *controller) ever(found *container) bool {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	return found.started
}

// launch starts the process, once, and its end if the script has one.
func (c *controller) launch(script Script) error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	found := c.host.containers[c.spec.Task]
	switch {
	case c.host.down:
		return exec.ErrUnavailable
	case found == nil:
		return exec.ErrGone
	case found.started:
		return nil
	}
	found.started, found.running = true, true
	c.host.starts[c.spec.Task]++
	found.changed()
	switch {
	case script.Ends && script.RunFor == 0:
		found.end(script.Exit)
	case script.Ends:
		time.AfterFunc(script.RunFor, func() {
			c.host.mu.Lock()
			defer c.host.mu.Unlock()
			found.end(script.Exit)
		})
	}
	return nil
}

func (c *controller) Wait(ctx context.Context) (exec.Exit, error) {
	for {
		exit, news, err := c.ended()
		if err != nil || exit != nil {
			return orZero(exit), err
		}
		select {
		case <-ctx.Done():
			return exec.Exit{}, ctx.Err()
		case <-news:
		}
	}
}

// ended returns how the container ended, or what to wait for.
func (c *controller) ended() (*exec.Exit, <-chan struct{}, error) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	found := c.host.containers[c.spec.Task]
	switch {
	case c.host.down:
		return nil, nil, exec.ErrUnavailable
	case found == nil || found.lost:
		return nil, nil, exec.ErrGone
	}
	return found.exit, found.news, nil
}

func orZero(e *exec.Exit) exec.Exit {
	if e == nil {
		return exec.Exit{}
	}
	return *e
}

func (c *controller) Shutdown(ctx context.Context) error {
	found, _, script, err := c.find()
	if err != nil || found == nil {
		return err
	}
	grace := c.spec.StopGrace()
	delay, code := script.StopDelay, script.StopCode
	if delay > grace {
		delay, code = grace, 137
	}
	if c.alive(found) {
		if err := c.linger(ctx, delay); err != nil {
			return err
		}
	}
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.down {
		return exec.ErrUnavailable
	}
	found.end(exec.Exit{Code: code})
	return nil
}

func (c *controller) alive(found *container) bool {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	return found.running
}

// linger waits as long as a container takes to stop, less if it ends before.
func (c *controller) linger(ctx context.Context, delay time.Duration) error {
	if delay == 0 {
		return ctx.Err()
	}
	ctx, stop := context.WithTimeout(ctx, delay)
	defer stop()
	_, err := c.Wait(ctx)
	switch {
	case err == nil, errors.Is(err, exec.ErrGone), errors.Is(err, context.DeadlineExceeded):
		return nil
	default:
		return err
	}
}

func (c *controller) Remove(context.Context) error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.down {
		return exec.ErrUnavailable
	}
	c.host.drop(c.spec.Task)
	delete(c.host.remnants, c.spec.Task)
	return nil
}

// pause waits d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
