package events

import (
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func serviceEntry(x id.ID, v *modelv1.Service) Entry {
	return Entry{
		Event:  &controlv1.Event{Type: TypeService, Id: x.Bytes(), Name: v.GetSpec().GetName()},
		Labels: v.GetSpec().GetLabels(), Service: x,
	}
}

// service tells what became of a service.
func (s *step) service(x id.ID, old, v *modelv1.Service) {
	switch {
	case old == nil && v == nil:
	case old == nil:
		attributes := map[string]string{"image": image(s.after, v), "mode": mode(v)}
		if r := v.GetSpec().GetReplicated(); r != nil {
			attributes["replicas"] = decimal(r.GetReplicas())
		}
		s.add(serviceEntry(x, v), "create", "", attributes)
	case v == nil:
		if !old.GetRemoving() {
			s.add(serviceEntry(x, old), "remove", "", nil)
		}
		s.add(serviceEntry(x, old), "destroy", "", nil)
	case v.GetRemoving() && !old.GetRemoving():
		s.add(serviceEntry(x, v), "remove", "", nil)
	default:
		s.serviceEdit(x, old, v)
	}
}

// turns are the actions that a new state of an update is.
var turns = map[modelv1.UpdateState]string{
	modelv1.UpdateState_UPDATE_STATE_PAUSED:             "update-paused",
	modelv1.UpdateState_UPDATE_STATE_COMPLETED:          "update-completed",
	modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:   "rollback-started",
	modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:    "rollback-paused",
	modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED: "rollback-completed",
}

// serviceEdit tells of a change that was asked for, and of what the update came to.
func (s *step) serviceEdit(x id.ID, old, v *modelv1.Service) {
	attributes := make(map[string]string)
	was, is := old.GetUpdate().GetState(), v.GetUpdate().GetState()
	turned(attributes, "updatestate", updateState(was), updateState(is))
	turn := turns[is]
	if was == is {
		turn = ""
	}
	if s.edited(old, v, attributes) || was != is && turn == "" {
		s.add(serviceEntry(x, v), "update", "", attributes)
	}
	if turn != "" {
		attributes := make(map[string]string)
		turned(attributes, "updatestate", updateState(was), updateState(is))
		s.add(serviceEntry(x, v), turn, v.GetUpdate().GetMessage(), attributes)
	}
}

// edited notes what was asked for, and whether anything was.
func (s *step) edited(old, v *modelv1.Service, attributes map[string]string) bool {
	turned(attributes, "name", old.GetSpec().GetName(), v.GetSpec().GetName())
	if a, b := old.GetSpec().GetReplicated(), v.GetSpec().GetReplicated(); a != nil && b != nil {
		turned(attributes, "replicas", decimal(a.GetReplicas()), decimal(b.GetReplicas()))
	}
	labelled(attributes, old.GetSpec().GetLabels(), v.GetSpec().GetLabels())
	if old.GetTarget() != v.GetTarget() {
		turned(attributes, "revision", decimal(old.GetTarget()), decimal(v.GetTarget()))
		turned(attributes, "image", image(s.before, old), image(s.after, v))
	}
	return old.GetTarget() != v.GetTarget() || !proto.Equal(old.GetSpec(), v.GetSpec())
}

func updateState(u modelv1.UpdateState) string {
	if u == modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED {
		return ""
	}
	return word(u.String(), "UPDATE_STATE_")
}

func image(snap *store.Snapshot, v *modelv1.Service) string {
	x, err := id.FromBytes(v.GetId())
	if err != nil {
		return ""
	}
	return snap.Revision(x, v.GetTarget()).GetTemplate().GetContainer().GetImage()
}

func mode(v *modelv1.Service) string {
	if v.GetSpec().GetGlobal() != nil {
		return "global"
	}
	return "replicated"
}
