package orchestrate

import (
	"fmt"

	"github.com/containerd/errdefs"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Revise makes revision the target of s, which is the caller's own copy, and
// begins the update to it at now (Unix nanoseconds of log time). The revision the
// service is known to have run becomes the one to roll back to: an update that
// replaces a failed one rolls back past it. Control calls it when a template
// changes; for a new service (no current revision) there is no update.
func Revise(s *modelv1.Service, revision uint64, now int64) {
	s.LastRevision = max(s.GetLastRevision(), revision)
	if s.GetCurrent() == 0 {
		s.Current, s.Target = revision, revision
		return
	}
	s.Previous, s.Target = s.GetCurrent(), revision
	s.Update = &modelv1.UpdateStatus{
		State: modelv1.UpdateState_UPDATE_STATE_UPDATING, StartedAt: now, Message: "update in progress"}
}

// RollBack makes the previous revision the target of s, which is the caller's own
// copy. What was the target can be rolled back to in turn.
func RollBack(s *modelv1.Service, now int64) error {
	if s.GetPrevious() == 0 {
		return fmt.Errorf("service %s has no previous revision to roll back to: %w",
			s.GetSpec().GetName(), errdefs.ErrFailedPrecondition)
	}
	from := s.GetTarget()
	turnBack(s, now, "rollback in progress")
	s.Previous = from
	return nil
}

// Resume goes on with a paused update of s, which is the caller's own copy; it
// reports whether there was one.
func Resume(s *modelv1.Service, now int64) bool {
	state, message := modelv1.UpdateState_UPDATE_STATE_UPDATING, "update in progress"
	switch s.GetUpdate().GetState() {
	case modelv1.UpdateState_UPDATE_STATE_PAUSED:
	case modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		state, message = modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, "rollback in progress"
	default:
		return false
	}
	s.Update = &modelv1.UpdateStatus{State: state, StartedAt: now, Message: message}
	return true
}

// turnBack makes the previous revision the target. There is then none to roll
// back to.
func turnBack(s *modelv1.Service, now int64, message string) {
	s.Target, s.Previous = s.GetPrevious(), 0
	s.Update = &modelv1.UpdateStatus{
		State: modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, StartedAt: now, Message: message}
}
