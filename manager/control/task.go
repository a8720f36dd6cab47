package control

import (
	"context"
	"iter"
	"strconv"

	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// taskView is a task with what a list shows of other objects.
func taskView(snap *store.Snapshot, t *store.Task) *controlv1.TaskView {
	v := &controlv1.TaskView{
		Task:        t.Proto(),
		ServiceName: snap.Service(t.Service).GetSpec().GetName(),
		Image:       snap.Revision(t.Service, t.Revision).GetTemplate().GetContainer().GetImage(),
	}
	if t.Node.IsZero() {
		return v
	}
	if n := snap.Node(t.Node); n != nil {
		v.NodeName = nodeName(n)
		v.UnknownSince = taskstate.UnknownSince(t.Observed, n.GetStatus())
	}
	return v
}

// taskName is "service.slot", or "service.node" for a task without a slot.
func taskName(v *controlv1.TaskView) string {
	if slot := v.GetTask().GetSlot(); slot != 0 {
		return v.GetServiceName() + "." + strconv.FormatUint(slot, 10)
	}
	return v.GetServiceName() + "." + idOf(v.GetTask().GetNode()).String()
}

// ListTasks shows the tasks that pass the filter.
func (s *Server) ListTasks(_ context.Context, msg *controlv1.ListTasksRequest) (*controlv1.ListTasksResponse, error) {
	if err := onlyFor("tasks", msg.GetFilter(), "ids", "names", "labels", "services", "nodes", "desired"); err != nil {
		return nil, err
	}
	snap := s.snapshot()
	f, err := s.resolve(snap, msg.GetFilter())
	if err != nil {
		return nil, err
	}
	resp := &controlv1.ListTasksResponse{Now: now(snap)}
	for t := range f.candidates(snap) {
		v := taskView(snap, t)
		if v.Task.Desired = wanted(t); f.passes(snap, t, v) {
			resp.Tasks = append(resp.Tasks, v)
		}
	}
	return resp, nil
}

// wanted is what a list says a task should be. One that ended by itself is told
// nothing (its slot is read from it, see orchestrate), but nobody wants it to run:
// whoever lists what should run does not look for the dead.
func wanted(t *store.Task) taskstate.State {
	if t.Terminal() {
		return max(t.Desired, taskstate.Shutdown)
	}
	return t.Desired
}

// candidates walks the fewest tasks that hold all that pass.
func (f taskFilter) candidates(snap *store.Snapshot) iter.Seq[*store.Task] {
	switch {
	case len(f.services) > 0:
		return func(yield func(*store.Task) bool) { each(f.services, snap.TasksByService, yield) }
	case len(f.nodes) > 0:
		return func(yield func(*store.Task) bool) { each(f.nodes, snap.TasksByNode, yield) }
	}
	return snap.Tasks()
}

// each walks what of says of each key, a key that comes twice once.
func each[K comparable, V any](keys []K, of func(K) iter.Seq[V], yield func(V) bool) {
	seen := make(map[K]bool, len(keys))
	for _, k := range keys {
		if seen[k] {
			continue
		}
		seen[k] = true
		for v := range of(k) {
			if !yield(v) {
				return
			}
		}
	}
}
