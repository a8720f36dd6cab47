package events

import (
	"slices"
	"strings"

	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// Passes reports whether f lets e through.
func (e *Entry) Passes(f *controlv1.EventFilter) bool {
	v := e.Event
	named := slices.Contains(f.GetActions(), v.GetAction())
	switch {
	case len(f.GetTypes()) > 0 && !slices.Contains(f.GetTypes(), v.GetType()),
		len(f.GetActions()) > 0 && !named,
		v.GetType() == TypeTask && passing[v.GetAction()] && !f.GetAll() && !named:
		return false
	}
	return about(f.GetNodes(), e.Node, e.name(TypeNode, "node")) &&
		about(f.GetServices(), e.Service, e.name(TypeService, "service")) &&
		hasLabel(e.Labels, f.GetLabels())
}

// name is what people call the node or service of e: its own name, or that of
// where it happened.
func (e *Entry) name(kind, attribute string) string {
	if e.Event.GetType() == kind {
		return e.Event.GetName()
	}
	return e.Event.GetAttributes()[attribute]
}

// about reports whether one of want is the name, or begins the id.
func about(want []string, x id.ID, name string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		return w == name || !x.IsZero() && strings.HasPrefix(x.String(), w)
	})
}

func hasLabel(labels map[string]string, want []string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		key, value, whole := strings.Cut(w, "=")
		have, ok := labels[key]
		return ok && (!whole || have == value)
	})
}
