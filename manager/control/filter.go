package control

import (
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// onlyFor refuses a filter by a field that means nothing for the list: it would
// pass everything, or nothing, in silence.
func onlyFor(list string, f *controlv1.Filter, fields ...protoreflect.Name) (err error) {
	f.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(fields, d.Name()) {
			err = rpc.Errorf(errdefs.ErrInvalidArgument, "%s cannot be filtered by %s", list, strings.ReplaceAll(string(d.Name()), "_", " "))
		}
		return err == nil
	})
	return err
}

// idPasses reports whether an id begins with one of the given.
func idPasses(x id.ID, want []string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(x.String(), w) })
}

// namePasses reports whether one of the names begins with one of the given.
func namePasses(want []string, names ...string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.HasPrefix(n, w) })
	})
}

// labelsPass reports whether the labels hold one of the given, "key" or
// "key=value".
func labelsPass(labels map[string]string, want []string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		key, value, whole := strings.Cut(w, "=")
		have, ok := labels[key]
		return ok && (!whole || have == value)
	})
}

// modePasses reports whether a service has one of the modes.
func modePasses(spec *modelv1.ServiceSpec, want []string) bool {
	mode := "replicated"
	if spec.GetGlobal() != nil {
		mode = "global"
	}
	return oneOf(mode, want)
}

// desiredPasses reports whether a task's desired state is one of the given.
// "running" means all that should still run.
func desiredPasses(have modelv1.TaskState, want []modelv1.TaskState) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w modelv1.TaskState) bool {
		return have == w || w == taskstate.Running && have <= taskstate.Running
	})
}

// taskFilter is a Filter with its refs resolved.
type taskFilter struct {
	*controlv1.Filter
	services, nodes []id.ID
}

// resolve finds what the refs of f name. A ref that names nothing is refused:
// "the tasks of a node that is not there" is a mistake, not an empty list.
func (s *Server) resolve(snap *store.Snapshot, f *controlv1.Filter) (taskFilter, error) {
	out := taskFilter{Filter: f}
	for _, ref := range f.GetServices() {
		v, err := service(snap, ref)
		if err != nil {
			return out, err
		}
		out.services = append(out.services, idOf(v.GetId()))
	}
	for _, ref := range f.GetNodes() {
		n, err := s.node(snap, ref)
		if err != nil {
			return out, err
		}
		out.nodes = append(out.nodes, idOf(n.GetId()))
	}
	return out, nil
}

// passes reports whether a task passes; v is its view.
func (f taskFilter) passes(snap *store.Snapshot, t *store.Task, v *controlv1.TaskView) bool {
	return oneOf(t.Service, f.services) && oneOf(t.Node, f.nodes) &&
		idPasses(t.ID, f.GetIds()) && desiredPasses(wanted(t), f.GetDesired()) &&
		namePasses(f.GetNames(), taskName(v)) &&
		(len(f.GetLabels()) == 0 || labelsPass(containerLabels(snap, t), f.GetLabels()))
}

func containerLabels(snap *store.Snapshot, t *store.Task) map[string]string {
	return snap.Revision(t.Service, t.Revision).GetTemplate().GetContainer().GetLabels()
}
