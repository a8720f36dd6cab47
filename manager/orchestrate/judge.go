package orchestrate

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// judge begins an update that is due, and stops, reverses or completes one that
// is under way.
func (p *planner) judge() {
	if p.svc.GetCurrent() == 0 && p.svc.GetTarget() != 0 && p.svc.GetUpdate() == nil {
		p.edit(func(s *modelv1.Service) { s.Current = s.GetTarget() }) // a new service
	}
	if p.svc.GetCurrent() != 0 && p.svc.GetTarget() != p.svc.GetCurrent() && !p.updating() && !p.paused() {
		p.edit(func(s *modelv1.Service) {
			s.Update = &modelv1.UpdateStatus{
				State: modelv1.UpdateState_UPDATE_STATE_UPDATING, StartedAt: p.now, Message: "update in progress"}
		})
	}
	if !p.updating() {
		return
	}
	if task := p.tooManyFailures(); task != nil {
		p.fail(task)
		return
	}
	p.complete()
}

// edit changes a copy of the service and reads the slots anew under it.
func (p *planner) edit(change func(*modelv1.Service)) {
	if p.svc == p.Service {
		p.svc = proto.CloneOf(p.Service)
	}
	change(p.svc)
	p.classify()
}

// tooManyFailures returns a task that failed, if more slots had one than the
// update allows.
func (p *planner) tooManyFailures() *Task {
	var first *Task
	failed, total := 0, 0
	for i := range p.slots {
		v := &p.slots[i]
		if !v.wanted {
			continue
		}
		total++
		if v.failed != nil {
			failed++
			if first == nil {
				first = v.failed
			}
		}
	}
	if first == nil || float64(failed)/float64(total) <= p.config().GetMaxFailureRatio() {
		return nil
	}
	return first
}

// fail does what the policy says of an update that failed.
func (p *planner) fail(t *Task) {
	name := t.ID.String()
	what := fmt.Sprintf("task %s %s", name, failureWord(t.Observed))
	back := rollingBack(p.svc)
	switch action := p.config().GetFailureAction(); {
	case action == modelv1.FailureAction_FAILURE_ACTION_CONTINUE:
		p.complete()
	case back: // a rollback is never rolled back
		p.edit(func(s *modelv1.Service) {
			s.Update = p.status(modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED, "rollback paused: "+what)
		})
	case action == modelv1.FailureAction_FAILURE_ACTION_ROLLBACK && p.svc.GetPrevious() != 0:
		p.edit(func(s *modelv1.Service) { turnBack(s, p.now, "update rolled back: "+what) })
	case action == modelv1.FailureAction_FAILURE_ACTION_ROLLBACK:
		p.edit(func(s *modelv1.Service) {
			s.Update = p.status(modelv1.UpdateState_UPDATE_STATE_PAUSED,
				"update paused: "+what+", and there is no revision to roll back to")
		})
	default:
		p.edit(func(s *modelv1.Service) {
			s.Update = p.status(modelv1.UpdateState_UPDATE_STATE_PAUSED, "update paused: "+what)
		})
	}
}

func failureWord(s taskstate.State) string {
	switch s {
	case taskstate.Rejected:
		return "was rejected"
	case taskstate.Complete:
		return "ended, though it should run on"
	}
	return "failed"
}

// status returns the update's record in another state.
func (p *planner) status(state modelv1.UpdateState, message string) *modelv1.UpdateStatus {
	return &modelv1.UpdateStatus{State: state, StartedAt: p.svc.GetUpdate().GetStartedAt(), Message: message}
}

// complete ends the update if every slot has been through it and the last was
// watched for as long as the policy says.
func (p *planner) complete() {
	var last int64
	for i := range p.slots {
		v := &p.slots[i]
		if !v.wanted || p.outOfReach(v) {
			continue
		}
		if p.progress(v) != done || p.retries(v) {
			return
		}
		last = max(last, v.tried)
	}
	if last > 0 {
		if at := last + p.config().GetMonitor(); at > p.now {
			p.wakeAt(at)
			return
		}
	}
	p.edit(func(s *modelv1.Service) {
		state, message := modelv1.UpdateState_UPDATE_STATE_COMPLETED, "update completed"
		if rollingBack(s) {
			state, message = modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED, "rollback completed"
		}
		u := p.status(state, message)
		u.CompletedAt = p.now
		s.Update, s.Current = u, s.GetTarget()
	})
}

// retries reports whether a start-first update that failed in the slot, where the
// old task runs on, will try again.
func (p *planner) retries(v *slot) bool {
	if v.keeper == nil || p.fresh(v.keeper) {
		return false
	}
	t := v.newest
	if !p.fresh(t) || !endedByItself(t) || t.Desired > taskstate.Running {
		return true
	}
	_, again := p.due(v, t)
	return again
}
