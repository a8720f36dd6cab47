package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Task returns the controller of a task's container.
func (r *Runtime) Task(s exec.Spec) exec.Controller { return &controller{Runtime: r, spec: s} }

// controller leads one task's container. It remembers nothing: containerd does.
type controller struct {
	*Runtime
	spec exec.Spec
}

// ContainerID returns the task's id, which is also the name of the container's
// snapshot, cgroup and directory.
func (c *controller) ContainerID() string { return c.spec.Task.String() }

// load returns the container, or exec.ErrGone.
func (c *controller) load(ctx context.Context) (client.Container, map[string]string, error) {
	found, err := c.client.LoadContainer(ctx, c.ContainerID())
	if err != nil {
		return nil, nil, c.words("container "+c.ContainerID(), err)
	}
	labels, err := found.Labels(ctx)
	if err != nil {
		return nil, nil, c.words("container "+c.ContainerID(), err)
	}
	return found, labels, nil
}

// Prepare fetches the image and creates the container.
func (c *controller) Prepare(ctx context.Context) error {
	ctx = c.ours(ctx)
	leave, err := c.lanes.enter(ctx, c.ContainerID())
	if err != nil {
		return err
	}
	defer leave()
	if _, _, err := c.load(ctx); !errors.Is(err, exec.ErrGone) {
		return err
	}
	tmpl, err := exec.Expand(c.spec)
	if err != nil {
		return err
	}
	if err := supported(tmpl.GetContainer()); err != nil {
		return exec.Rejected(err)
	}
	img, err := c.image(ctx, tmpl.GetContainer().GetImage(), c.spec.RegistryAuth)
	if err != nil {
		return err
	}
	err = c.create(ctx, tmpl, img)
	if errors.Is(err, exec.ErrRejected) {
		// The rejection stands; what stays of it is removed with the task.
		if err := c.discard(ctx); err != nil {
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "what a rejected task left could not be removed",
				slog.String("task", c.ContainerID()), slog.Any("err", err))
		}
	}
	return err
}

// discard removes what a creation that came to no container has made. The
// directory goes last: by it the rest is found again.
func (c *controller) discard(ctx context.Context) error {
	snapshotter, err := c.snapshotter(ctx)
	if err == nil {
		err = ignoreNotFound(c.client.SnapshotService(snapshotter).Remove(ctx, c.ContainerID()))
	}
	if err == nil {
		err = os.RemoveAll(c.taskDir(c.ContainerID()))
	}
	return err
}

// supported refuses what this version cannot do, rather than ignoring it.
func supported(c *modelv1.ContainerSpec) error {
	if c.GetInit() {
		return errors.New("an init process in the container is not supported by this version; leave --init away")
	}
	if c.GetStopSignal() != "" {
		if _, err := signal.ParseSignal(c.GetStopSignal()); err != nil {
			return fmt.Errorf("stop signal %q: %w", c.GetStopSignal(), err)
		}
	}
	return nil
}

// create makes the snapshot and the container's record.
func (c *controller) create(ctx context.Context, tmpl *modelv1.TaskTemplate, img client.Image) error {
	about, err := img.Spec(ctx)
	if err != nil {
		return c.creating(err)
	}
	host, err := c.writeFiles(c.spec, tmpl.GetContainer())
	if err != nil {
		return c.creating(err)
	}
	spec, err := c.specOpts(c.spec, tmpl, about.Config, host)
	if err != nil {
		return exec.Rejected(c.creating(err))
	}
	snapshotter, err := c.snapshotter(ctx)
	if err != nil {
		return err
	}
	id := c.ContainerID()
	// What a creation that was cut short left behind is in the way.
	if err := ignoreNotFound(c.client.SnapshotService(snapshotter).Remove(ctx, id)); err != nil {
		return c.creating(err)
	}
	_, err = c.client.NewContainer(ctx, id,
		client.WithSnapshotter(snapshotter),
		client.WithNewSnapshot(id, img),
		client.WithImage(img),
		client.WithRuntime(runcRuntime, &options.Options{}),
		client.WithNewSpec(spec...),
		client.WithAdditionalContainerLabels(c.labels(tmpl.GetContainer(), about.Config)))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return c.creating(err)
	}
	return nil
}

// creating says whether it makes sense to try again: only if containerd is away,
// which is said with what was being done. A rejection is shown beside its task,
// where the first words count, so it is the cause alone.
func (c *controller) creating(err error) error {
	if exec.Unavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return c.words("create container "+c.ContainerID(), err)
	}
	return exec.Rejected(err)
}

// labels returns the container's labels: the service's own, less those that mean
// something to us or to containerd (which would restart the container, or keep
// it for ever), and ours.
func (c *controller) labels(t *modelv1.ContainerSpec, img imagespec.ImageConfig) map[string]string {
	labels := map[string]string{}
	for k, v := range t.GetLabels() {
		if !strings.HasPrefix(k, "skep.") && !strings.HasPrefix(k, "containerd.io/") {
			labels[k] = v
		}
	}
	stop, err := signal.ParseSignal(or(t.GetStopSignal(), or(img.StopSignal, "SIGTERM")))
	if err != nil { // the image's word; the service's was checked
		stop = syscall.SIGTERM
	}
	maps.Copy(labels, c.spec.Labels())
	labels[labelSignal] = strconv.Itoa(int(stop))
	labels[labelGrace] = c.spec.StopGrace().String()
	return labels
}

// Start starts the container's process, once in its life.
func (c *controller) Start(ctx context.Context) error {
	ctx = c.ours(ctx)
	leave, err := c.lanes.enter(ctx, c.ContainerID())
	if err != nil {
		return err
	}
	defer leave()
	found, labels, err := c.load(ctx)
	if err != nil {
		return err
	}
	if labels[labelBarred] != "" {
		return fmt.Errorf("start container %s: it was shut down before: %w", found.ID(), exec.ErrGone)
	}
	task, err := c.process(ctx, found, labels[labelStarted] != "")
	if err != nil || task == nil {
		return err
	}
	if err := c.launch(ctx, found, task); err != nil {
		return err
	}
	c.started.strike()
	return nil
}

// process returns the container's process if it has yet to be started, making
// it if need be, and nil if it was started before.
func (c *controller) process(ctx context.Context, found client.Container, started bool) (client.Task, error) {
	task, err := found.Task(ctx, nil)
	switch {
	case noTask(err) && started:
		return nil, nil // it has ended, or the host was rebooted
	case noTask(err):
		return c.newTask(ctx, found)
	case err != nil:
		return nil, c.starting(err)
	}
	status, err := task.Status(ctx)
	if err != nil {
		return nil, c.starting(err)
	}
	if status.Status != client.Created {
		return nil, nil
	}
	return task, nil
}

// newTask makes the process, stopped before its first instruction.
func (c *controller) newTask(ctx context.Context, found client.Container) (client.Task, error) {
	spec, err := found.Spec(ctx)
	if err != nil {
		return nil, c.starting(err)
	}
	output := cio.LogFile(c.logFile(found.ID()))
	if spec.Process != nil && spec.Process.Terminal {
		output = c.terminal(found.ID())
	}
	task, err := found.NewTask(ctx, output)
	if err != nil {
		return nil, c.starting(err)
	}
	return task, nil
}

// launch writes down that the process is started, and starts it. If we die in
// between, the process is found created and is started by the next.
func (c *controller) launch(ctx context.Context, found client.Container, task client.Task) error {
	now := time.Now().UTC().Format(time.RFC3339Nano)
	if _, err := found.SetLabels(ctx, map[string]string{labelStarted: now}); err != nil {
		return c.starting(err)
	}
	if err := task.Start(ctx); err != nil {
		return c.starting(err)
	}
	return nil
}

// starting is creating for a start. What runc refuses, it refuses again.
func (c *controller) starting(err error) error {
	if exec.Unavailable(err) || errdefs.IsNotFound(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return c.words("start container "+c.ContainerID(), err)
	}
	return exec.Rejected(brief{err})
}

// brief is an error of runc without the names of those who passed it on.
type brief struct{ error }

func (b brief) Unwrap() error { return b.error }

func (b brief) Error() string {
	text := b.error.Error()
	for _, before := range []string{"OCI runtime create failed: ", "runc create failed: ", "unable to start container process: ", "error during container init: "} {
		if _, after, ok := strings.Cut(text, before); ok && after != "" {
			text = after
		}
	}
	return text
}

// terminal makes the log of a container with a terminal. The shim writes that
// through a file's plain name only.
func (c *controller) terminal(id string) cio.Creator {
	path := c.logFile(id)
	return func(string) (cio.IO, error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		return plainLog{path}, nil
	}
}

// plainLog is the output of a process with a terminal, going to a file.
type plainLog struct{ path string }

func (l plainLog) Config() cio.Config { return cio.Config{Terminal: true, Stdout: l.path} }
func (plainLog) Cancel()              {}
func (plainLog) Wait()                {}
func (plainLog) Close() error         { return nil }
