package orchestrate

import (
	"cmp"
	"slices"

	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// defaultMonitor and defaultDelay are used where a record lacks its policy;
// control fills them in.
const (
	defaultMonitor = 5_000_000_000
	defaultDelay   = 5_000_000_000
)

// classify reads what every wanted slot amounts to under the service as it is.
func (p *planner) classify() {
	for i := range p.slots {
		if v := &p.slots[i]; v.wanted {
			p.classifySlot(v)
		}
	}
}

func (p *planner) classifySlot(v *slot) {
	v.newest, v.keeper, v.spare, v.failed = nil, nil, nil, nil
	v.running, v.stopping, v.tried = false, false, 0
	for i := range v.tasks {
		t := &v.tasks[i]
		switch s, _ := p.stands(t); s {
		case stopping, evicted:
			v.stopping = true
		case live:
			v.running = v.running || t.Observed == taskstate.Running
			if v.keeper == nil || p.better(t, v.keeper) {
				v.keeper = t
			}
			if !p.fresh(t) && (v.spare == nil || p.better(t, v.spare)) {
				v.spare = t
			}
		}
		if t.Desired < taskstate.Remove {
			if v.newest == nil || t.Desired <= taskstate.Running || v.newest.Desired > taskstate.Running {
				v.newest = t
			}
			p.note(v, t)
		}
	}
}

// better reports whether live task a rather than b should hold the slot: one of
// the target revision, one further on, the older one. b is older.
func (p *planner) better(a, b *Task) bool {
	if af, bf := p.fresh(a), p.fresh(b); af != bf {
		return af
	}
	return a.Observed > b.Observed
}

// fresh reports whether t is of the revision the service is meant to run.
func (p *planner) fresh(t *Task) bool { return t.Revision == p.svc.GetTarget() }

// note takes t into account as an attempt of the update under way.
func (p *planner) note(v *slot, t *Task) {
	if !p.fresh(t) || t.CreatedAt < p.svc.GetUpdate().GetStartedAt() {
		return
	}
	if v.tried == 0 && (t.Observed == taskstate.Running || endedByItself(t)) {
		v.tried = max(t.ObservedAt, 1)
	}
	if v.failed == nil && p.failedItself(t) {
		v.failed = t
	}
}

// endedByItself reports whether t ended before it was told to. Log time may
// stand still while a clock goes back, so a tie is an end by itself only if the
// state does not say otherwise.
func endedByItself(t *Task) bool {
	switch {
	case !taskstate.Terminal(t.Observed), t.Observed == taskstate.Orphaned, t.HostLost:
		return false
	case t.Desired <= taskstate.Running:
		return true
	}
	return t.Observed != taskstate.Shutdown && t.ObservedAt <= t.DesiredAt
}

// failedItself reports whether t's end counts against an update. A task that
// should run for ever fails by completing, too.
func (p *planner) failedItself(t *Task) bool {
	if !endedByItself(t) {
		return false
	}
	return t.Observed != taskstate.Complete || p.condition() == modelv1.RestartCondition_RESTART_CONDITION_ANY
}

// updating reports whether an update or a rollback is moving slots.
func (p *planner) updating() bool {
	s := p.svc.GetUpdate().GetState()
	return s == modelv1.UpdateState_UPDATE_STATE_UPDATING || s == modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
}

// paused reports whether an update was stopped half way.
func (p *planner) paused() bool {
	s := p.svc.GetUpdate().GetState()
	return s == modelv1.UpdateState_UPDATE_STATE_PAUSED || s == modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
}

// config is the policy of the update or rollback under way.
func (p *planner) config() *modelv1.UpdateConfig {
	c := p.Service.GetSpec().GetUpdate()
	if rollingBack(p.svc) {
		c = p.Service.GetSpec().GetRollback()
	}
	if c == nil {
		return &modelv1.UpdateConfig{Parallelism: 1, Monitor: defaultMonitor}
	}
	return c
}

func rollingBack(s *modelv1.Service) bool {
	switch s.GetUpdate().GetState() {
	case modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		return true
	}
	return false
}

// startFirst reports whether a new task starts before the old one stops.
func (p *planner) startFirst() bool {
	return p.config().GetOrder() == modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST
}

// How far an update is with a slot.
type progress uint8

const (
	waits    progress = iota // still of another revision
	underWay                 // taken down, or its new task has not run yet
	done
)

// progress returns how far the update is with the slot.
func (p *planner) progress(v *slot) progress {
	switch {
	case v.keeper != nil && p.fresh(v.keeper):
		if !v.tried0() && v.keeper.Observed != taskstate.Running {
			return underWay
		}
		if p.startFirst() && v.spare != nil && v.keeper.Observed == taskstate.Running {
			return underWay
		}
		return done
	case v.tried0() && (v.keeper == nil || p.startFirst()):
		return done // its new task failed; the restart policy has it now
	case v.keeper != nil:
		return waits
	case v.newest != nil && !v.stopping && endedByItself(v.newest):
		if p.fresh(v.newest) {
			return done // at rest since before the update began
		}
		return waits
	}
	return underWay
}

// tried0 reports whether a task of this update has run or ended in the slot.
func (v *slot) tried0() bool { return v.tried != 0 }

// outOfReach reports whether an update must leave the slot alone for now: it is
// of a node that takes no new tasks.
func (p *planner) outOfReach(v *slot) bool { return p.global() && !p.takes(v.node) }

// granted marks the slots that the update may change now: as many as its
// parallelism leaves. A global service goes on when the update is over, for nodes
// that took no tasks while it lasted: quietly, one attempt each.
func (p *planner) granted() {
	for i := range p.slots {
		p.slots[i].granted = false
	}
	if !p.updating() && (!p.global() || p.paused()) {
		return
	}
	var candidates []*slot
	busy := 0
	delay := p.config().GetDelay()
	for i := range p.slots {
		v := &p.slots[i]
		if !v.wanted || p.outOfReach(v) {
			continue
		}
		switch p.progress(v) {
		case waits:
			if p.updating() || !p.attempted(v) {
				candidates = append(candidates, v)
			}
		case underWay:
			busy++
		case done:
			if p.updating() && v.tried0() && delay > 0 && v.tried+delay > p.now {
				busy++
				if p.config().GetParallelism() > 0 {
					p.wakeAt(v.tried + delay)
				}
			}
		}
	}
	n := len(candidates)
	if par := p.config().GetParallelism(); par > 0 {
		n = min(n, max(0, int(min(par, maxReplicas))-busy))
	}
	slices.SortStableFunc(candidates, func(a, b *slot) int { return cmp.Compare(a.worth(), b.worth()) })
	for _, v := range candidates[:n] {
		v.granted = true
	}
}

// attempted reports whether a task of the target revision was made in the slot
// since the one that it should take the place of.
func (p *planner) attempted(v *slot) bool {
	old := v.keeper
	if old == nil {
		old = v.newest
	}
	return slices.ContainsFunc(v.tasks, func(t Task) bool {
		return t.Desired < taskstate.Remove && p.fresh(&t) && t.CreatedIndex > old.CreatedIndex
	})
}

// worth orders the candidates of an update: a slot that does not run loses
// nothing, so it goes first; one whose task finds no node goes last, for its
// next one may find none either and hold up the rest.
func (v *slot) worth() int {
	switch {
	case v.running:
		return 1
	case v.keeper != nil && v.keeper.Node.IsZero():
		return 2
	}
	return 0
}
