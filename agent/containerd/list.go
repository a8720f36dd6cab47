package containerd

import (
	"context"
	"fmt"
	"os"
	"strconv"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
)

// List returns every container of this cluster and node, and what is left of
// those whose creation was cut short. It asks containerd twice, however many
// there are, and once for each that was cut short.
func (r *Runtime) List(ctx context.Context) ([]exec.Container, error) {
	ctx = r.ours(ctx)
	kept, err := r.taskDirs() // first: what is made later has its container
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	out, err := r.listContainers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range out {
		delete(kept, c.ID)
	}
	for name, task := range kept {
		switch _, err := r.client.ContainerService().Get(ctx, name); {
		case errdefs.IsNotFound(err):
			out = append(out, exec.Container{ID: name, Task: task})
		case err != nil:
			return nil, r.words("list containers: "+name, err)
		}
	}
	return out, nil
}

// taskDirs returns the tasks that have a directory, by its name.
func (r *Runtime) taskDirs() (map[string]id.ID, error) {
	entries, err := os.ReadDir(r.taskDir(""))
	if err != nil {
		return nil, err
	}
	dirs := make(map[string]id.ID, len(entries))
	for _, e := range entries {
		if task, err := id.Parse(e.Name()); err == nil {
			dirs[e.Name()] = task
		}
	}
	return dirs, nil
}

// listContainers returns the containers of this cluster and node.
func (r *Runtime) listContainers(ctx context.Context) ([]exec.Container, error) {
	running, err := r.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, r.words("list containers", errgrpc.ToNative(err))
	}
	processes := map[string]*taskapi.Process{}
	for _, p := range running.GetTasks() {
		processes[p.GetID()] = p
	}
	filter := fmt.Sprintf("labels.%q==%s,labels.%q==%s",
		exec.LabelCluster, r.cfg.Cluster, exec.LabelNode, r.cfg.Node)
	found, err := r.client.Containers(ctx, filter)
	if err != nil {
		return nil, r.words("list containers", err)
	}
	var out []exec.Container
	for _, c := range found {
		record, err := c.Info(ctx, client.WithoutRefreshedMetadata)
		if err != nil {
			return nil, r.words("list containers", err)
		}
		listed := containerOf(c.ID(), record.Labels)
		if p := processes[c.ID()]; p != nil {
			status(&listed, p)
		} else if listed.Started && listed.Exit == nil {
			// It may have been started, or have ended, between the questions.
			if err := r.lookAgain(ctx, c, &listed); err != nil {
				return nil, r.words("list containers: "+c.ID(), err)
			}
		}
		out = append(out, listed)
	}
	return out, nil
}

// containerOf tells what a container's labels say. Labels no agent wrote make a
// container of no task: it is listed, because it is ours, and matches nothing.
func containerOf(name string, labels map[string]string) exec.Container {
	c := exec.Container{ID: name, Started: labels[labelStarted] != "", Exit: exitOf(labels)}
	c.Task, _ = id.Parse(labels[exec.LabelTask])
	c.Service, _ = id.Parse(labels[exec.LabelService])
	c.CreatedIndex, _ = strconv.ParseUint(labels[exec.LabelIndex], 10, 64)
	return c
}

// status adds what its process says, of which a written exit is the end.
func status(c *exec.Container, p *taskapi.Process) {
	if c.Exit != nil {
		return
	}
	switch p.GetStatus() {
	case taskapi.Status_CREATED:
		c.Started = false
	case taskapi.Status_STOPPED:
		c.Exit = shimExit(p.GetExitStatus(), p.GetExitedAt().AsTime())
	default:
		c.Running = true
	}
}

// lookAgain asks about one container's process and then reads its labels, in
// the order that cannot miss an end.
func (r *Runtime) lookAgain(ctx context.Context, c client.Container, listed *exec.Container) error {
	resp, err := r.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: c.ID()})
	if err == nil {
		status(listed, resp.GetProcess())
		return nil
	}
	if err := ignoreNotFound(errgrpc.ToNative(err)); err != nil {
		return err
	}
	labels, err := c.Labels(ctx)
	if err != nil {
		return ignoreNotFound(err)
	}
	listed.Exit = exitOf(labels)
	return nil
}
