package orchestrate

import (
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// move emits what the wanted slot needs now.
func (p *planner) move(v *slot) {
	m := Move{Slot: v.number, Node: v.node}
	for i := range v.tasks {
		if d, ok := p.dismiss(v, &v.tasks[i]); ok {
			m.Decide = append(m.Decide, d)
		}
	}
	switch {
	case v.keeper == nil:
		m.Create = p.refill(v)
	case v.granted && p.startFirst() && !v.keeper.Node.IsZero():
		m.Create = p.attempt(v)
	case v.granted:
		m.Decide = append(m.Decide, p.shutdown(v.keeper, ""))
		if v.keeper.Node.IsZero() && !v.stopping { // nothing to wait for
			m.Create = p.svc.GetTarget()
		}
	case p.updating() && p.startFirst() && !p.fresh(v.keeper) && v.tried0():
		m.Create = p.attempt(v)
	}
	if p.outOfReach(v) {
		m.Create = 0
	}
	if m.Create != 0 || (v.keeper != nil && (p.fresh(v.keeper) || !p.updating())) {
		m.Decide = append(m.Decide, p.followed(v)...)
	}
	p.emit(m)
}

// followed tells the tasks that ended by themselves and have another in their
// place to shut down: that is how they are known to need no successor.
func (p *planner) followed(v *slot) []Decision {
	var out []Decision
	for i := range v.tasks {
		if t := &v.tasks[i]; t.Desired <= taskstate.Running && taskstate.Terminal(t.Observed) {
			out = append(out, p.shutdown(t, ""))
		}
	}
	return out
}

// dismiss tells a task of the slot to shut down if it must not or need not run.
func (p *planner) dismiss(v *slot, t *Task) (Decision, bool) {
	if t.Desired > taskstate.Running {
		return Decision{}, false
	}
	switch s, why := p.stands(t); s {
	case lost, evicted:
		return p.shutdown(t, why), true
	case live:
		if t == v.keeper {
			return Decision{}, false
		}
		if t == v.spare && p.fresh(v.keeper) && v.keeper.Observed != taskstate.Running {
			return Decision{}, false // start first: the old one stays until the new one runs
		}
		return p.shutdown(t, ""), true
	}
	return Decision{}, false
}

func (p *planner) shutdown(t *Task, why string) Decision {
	return Decision{Task: t.ID, Desired: taskstate.Shutdown, Reason: why}
}

// refill returns the revision of the task that an empty slot gets now, or 0.
func (p *planner) refill(v *slot) uint64 {
	if v.stopping {
		return 0
	}
	t := v.newest
	if t == nil {
		if p.paused() && p.svc.GetCurrent() != 0 {
			return p.svc.GetCurrent() // the target is what the update was stopped for
		}
		return p.svc.GetTarget()
	}
	revision := p.svc.GetTarget()
	if p.paused() {
		revision = t.Revision
	}
	if !endedByItself(t) || t.Desired > taskstate.Running {
		return revision
	}
	if v.granted || p.restart(v, t) {
		return revision
	}
	return 0
}

// attempt returns the target revision if a start-first update may make its next
// task in a slot that still has its old one.
func (p *planner) attempt(v *slot) uint64 {
	if t := v.newest; p.fresh(t) && endedByItself(t) && t.Desired <= taskstate.Running && !p.restart(v, t) {
		return 0
	}
	return p.svc.GetTarget()
}

// restart reports whether the slot's task t, which ended by itself, is followed
// by another one now; if only later, the plan wakes then.
func (p *planner) restart(v *slot, t *Task) bool {
	at, again := p.due(v, t)
	if again && at > p.now {
		p.wakeAt(at)
		return false
	}
	return again
}

// due returns when the slot's task t, which ended by itself, is followed by
// another one, and whether it is at all. What the policy says of t is settled by
// its end: time alone never turns a no into a yes.
func (p *planner) due(v *slot, t *Task) (at int64, again bool) {
	switch p.condition() {
	case modelv1.RestartCondition_RESTART_CONDITION_NONE:
		return 0, false
	case modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE:
		if t.Observed == taskstate.Complete {
			return 0, false
		}
	}
	policy := p.Service.GetSpec().GetRestart()
	if most := policy.GetMaxAttempts(); most > 0 && uint64(v.ends(t, policy.GetWindow())) > most {
		return 0, false
	}
	return t.ObservedAt + p.restartDelay(), true
}

// ends counts the tasks of t's revision that ended by themselves in the slot, t
// included: since the slot last held another revision and, if window is not 0,
// within the window before t's end. The restarts made are one fewer.
func (v *slot) ends(t *Task, window int64) int {
	n := 0
	for i := len(v.tasks) - 1; i >= 0; i-- {
		o := &v.tasks[i]
		if o.Desired == taskstate.Remove {
			continue
		}
		if o.Revision != t.Revision {
			break
		}
		if endedByItself(o) && (window <= 0 || o.ObservedAt > t.ObservedAt-window) {
			n++
		}
	}
	return n
}

// condition is the restart condition, its default filled in.
func (p *planner) condition() modelv1.RestartCondition {
	if c := p.Service.GetSpec().GetRestart().GetCondition(); c != modelv1.RestartCondition_RESTART_CONDITION_UNSPECIFIED {
		return c
	}
	return modelv1.RestartCondition_RESTART_CONDITION_ANY
}

func (p *planner) restartDelay() int64 {
	if r := p.Service.GetSpec().GetRestart(); r != nil {
		return r.GetDelay()
	}
	return defaultDelay
}
