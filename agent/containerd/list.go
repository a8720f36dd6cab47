package containerd

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/containerd/v2/client"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
)

// List returns every container of this cluster and node.
func (r *Runtime) List(ctx context.Context) ([]exec.Container, error) {
	ctx = r.ours(ctx)
	filter := fmt.Sprintf("labels.%q==%s,labels.%q==%s",
		exec.LabelCluster, r.cfg.Cluster, exec.LabelNode, r.cfg.Node)
	found, err := r.client.Containers(ctx, filter)
	if err != nil {
		return nil, r.words("list containers", err)
	}
	var out []exec.Container
	for _, c := range found {
		listed, err := r.describe(ctx, c)
		if err != nil {
			return nil, r.words("list containers: "+c.ID(), err)
		}
		if listed != nil {
			out = append(out, *listed)
		}
	}
	return out, nil
}

// describe tells what a container is and where it stands; nil if it has
// vanished.
func (r *Runtime) describe(ctx context.Context, c client.Container) (*exec.Container, error) {
	labels, err := c.Labels(ctx)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	out := &exec.Container{ID: c.ID(), Started: labels[labelStarted] != "", Exit: exitOf(labels)}
	// Labels no agent wrote make a container of no task: it is listed, because
	// it is ours, and matches nothing.
	out.Task, _ = id.Parse(labels[exec.LabelTask])
	out.Service, _ = id.Parse(labels[exec.LabelService])
	out.CreatedIndex, _ = strconv.ParseUint(labels[exec.LabelIndex], 10, 64)
	if out.Exit != nil {
		return out, nil
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return out, ignoreNotFound(err)
	}
	status, err := task.Status(ctx)
	if err != nil {
		return out, ignoreNotFound(err)
	}
	switch status.Status {
	case client.Created:
		out.Started = false
	case client.Stopped:
		end := exitAt(status)
		out.Exit = &end
	default:
		out.Running = true
	}
	return out, nil
}
