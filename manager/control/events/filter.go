package events

import (
	"slices"
	"strings"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// actions are all there are but the states of tasks, with what tells them.
var actions = []string{
	"create", "update", "remove", "destroy", // of whatever there is
	"ready", "unknown", "down", "clone", "clock", "promote", "demote", Leader, Reachable, Unreachable, // of nodes
	"update-paused", "update-completed", "rollback-started", "rollback-paused", "rollback-completed", // of services
	"token-rotated", "new-history", LossesDeferred, "root-rotation-start", "root-rotation-phase", "root-rotation-end",
	"condemn-start", "condemn-step", "condemn-end", ExternalFails, ExternalBack, // of the swarm
	"pending", "accept", "reject", "lapse", // of nodes that wait
	"use", "used-up", "expire", "revoke", // of join tokens
}

// Actions returns the words that events are filtered by.
func Actions() []string {
	out := slices.Clone(actions)
	for s := range modelv1.TaskState_name {
		if s := taskstate.State(s); s != taskstate.New && s != taskstate.Remove {
			out = append(out, taskstate.Name(s))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Known reports whether an event may have the action.
func Known(action string) bool { return slices.Contains(Actions(), action) }

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
