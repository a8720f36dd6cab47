package orchestrate

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// drawSituation draws any state at all, also such as no plan ever made.
func drawSituation(t *rapid.T) Situation {
	s := svc(uint64(rapid.IntRange(0, 6).Draw(t, "replicas")))
	s.Target = uint64(rapid.IntRange(1, 3).Draw(t, "target"))
	s.Previous = uint64(rapid.IntRange(0, 2).Draw(t, "previous"))
	s.Spec.Update = &modelv1.UpdateConfig{
		Parallelism:     uint64(rapid.IntRange(0, 3).Draw(t, "parallelism")),
		Delay:           int64(rapid.IntRange(0, 1).Draw(t, "delay")) * 10 * second,
		FailureAction:   modelv1.FailureAction(rapid.IntRange(0, 3).Draw(t, "action")),
		Order:           modelv1.UpdateOrder(rapid.IntRange(0, 2).Draw(t, "order")),
		Monitor:         int64(rapid.IntRange(0, 1).Draw(t, "monitor")) * 10 * second,
		MaxFailureRatio: float64(rapid.IntRange(0, 2).Draw(t, "ratio")) / 2,
	}
	s.Spec.Rollback = proto.CloneOf(s.Spec.Update)
	s.Spec.Restart = &modelv1.RestartPolicy{
		Condition:   modelv1.RestartCondition(rapid.IntRange(0, 3).Draw(t, "condition")),
		Delay:       int64(rapid.IntRange(0, 1).Draw(t, "restart delay")) * 10 * second,
		MaxAttempts: uint64(rapid.IntRange(0, 2).Draw(t, "attempts")),
	}
	if state := modelv1.UpdateState(rapid.IntRange(0, 6).Draw(t, "state")); state != 0 {
		s.Update = &modelv1.UpdateStatus{State: state, StartedAt: epoch.UnixNano() - 60*second}
	}
	s.Removing = rapid.IntRange(0, 9).Draw(t, "removing") == 0
	if rapid.IntRange(0, 4).Draw(t, "global") == 0 {
		s.Spec.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
	}
	out := Situation{Service: s, Nodes: make(map[id.ID]Node), Now: epoch}
	for n := 1; n <= 4; n++ {
		if rapid.IntRange(0, 7).Draw(t, "absent") > 0 {
			out.Nodes[nodeN(n)] = Node{ID: nodeN(n), Name: "dev",
				State:        modelv1.NodeState(rapid.IntRange(1, 3).Draw(t, "node state")),
				Availability: modelv1.Availability(rapid.IntRange(0, 3).Draw(t, "availability"))}
		}
	}
	states := []taskstate.State{taskstate.Assigned, taskstate.Preparing, taskstate.Running, taskstate.Running, taskstate.Running,
		taskstate.Complete, taskstate.Shutdown, taskstate.Failed, taskstate.Rejected, taskstate.Orphaned}
	wishes := []taskstate.State{taskstate.Running, taskstate.Running, taskstate.Shutdown, taskstate.Remove}
	for n := range rapid.IntRange(0, 14).Draw(t, "tasks") {
		task := a(n+1, uint64(rapid.IntRange(1, 7).Draw(t, "slot")), on(rapid.IntRange(1, 5).Draw(t, "on")),
			revision(uint64(rapid.IntRange(1, 3).Draw(t, "revision"))), observed(rapid.SampledFrom(states).Draw(t, "observed")),
			desired(rapid.SampledFrom(wishes).Draw(t, "desired")))
		if rapid.Bool().Draw(t, "new") {
			made(&task)
		}
		if s.GetSpec().GetGlobal() != nil {
			task.Slot = 0
		} else if rapid.IntRange(0, 5).Draw(t, "nowhere") == 0 {
			nowhere(&task)
		}
		out.Tasks = append(out.Tasks, task)
	}
	return out
}

// obey changes the situation as the store would by the answer.
func obey(s *Situation, a Answer, made *int) {
	at := make(map[id.ID]int)
	for i, t := range s.Tasks {
		at[t.ID] = i
	}
	for _, m := range a.Moves {
		for _, d := range m.Decide {
			t := &s.Tasks[at[d.Task]]
			t.Desired, t.DesiredAt = d.Desired, s.Now.UnixNano()
		}
		if m.Create != 0 {
			*made++
			node := m.Node
			if node.IsZero() {
				node = nodeN(9) // somewhere sound
			}
			s.Tasks = append(s.Tasks, Task{ID: taskN(100 + *made), Node: node, Revision: m.Create, Slot: m.Slot,
				CreatedIndex: uint64(1000 + *made), Desired: taskstate.Running, Observed: taskstate.Assigned,
				CreatedAt: s.Now.UnixNano(), DesiredAt: s.Now.UnixNano(), ObservedAt: s.Now.UnixNano()})
		}
	}
	if a.Service != nil {
		s.Service = a.Service
	}
	s.Nodes[nodeN(9)] = Node{ID: nodeN(9), Name: "sound", State: modelv1.NodeState_NODE_STATE_READY, Availability: modelv1.Availability_AVAILABILITY_PAUSE}
}

// TestPlansKeepTheirPromises holds Plan to what must be true of every answer.
func TestPlansKeepTheirPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		s.Nodes[nodeN(9)] = Node{ID: nodeN(9), State: modelv1.NodeState_NODE_STATE_READY, Availability: modelv1.Availability_AVAILABILITY_PAUSE}
		before := make(map[id.ID]Task)
		for _, task := range s.Tasks {
			before[task.ID] = task
		}
		sound := func(task Task) bool { // may run, as far as anyone knows
			n, ok := s.Nodes[task.Node]
			return !taskstate.Terminal(task.Observed) && ok && n.State != modelv1.NodeState_NODE_STATE_DOWN
		}
		answer := Plan(s)
		removes, news, voluntary := 0, 0, 0
		for _, m := range answer.Moves {
			blocked, history := false, false
			for _, task := range before {
				if task.Slot == m.Slot && (m.Node.IsZero() || m.Node == task.Node) {
					history = history || task.Desired < taskstate.Remove
					blocked = blocked || sound(task)
				}
			}
			for _, d := range m.Decide {
				task := before[d.Task]
				if d.Desired <= task.Desired {
					t.Errorf("task %v is told %v, it was told %v", d.Task, d.Desired, task.Desired)
				}
				if d.Desired == taskstate.Remove {
					removes++
				}
				if d.Desired == taskstate.Shutdown && task.Observed == taskstate.Running && d.Reason == "" && task.Revision != s.Service.GetTarget() && !runsFresh(s, task) {
					voluntary++
				}
			}
			if m.Create != 0 && !history && m.Node.IsZero() {
				news++
			}
			first := s.Service.GetSpec().GetUpdate().GetOrder() == modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST
			if m.Create != 0 && blocked && !first {
				t.Errorf("slot %d gets a task while another may run: %s", m.Slot, show(answer))
			}
		}
		if removes > 0 && news > 0 {
			t.Errorf("the plan both removes slots and adds some: %s", show(answer))
		}
		if par := s.Service.GetSpec().GetUpdate().GetParallelism(); answer.Service == nil && par > 0 && voluntary > int(par) {
			t.Errorf("%d running tasks are stopped for an update of %d at once: %s", voluntary, par, show(answer))
		}
		if !answer.Wake.IsZero() && !answer.Wake.After(s.Now) {
			t.Errorf("wakes at %v, which is not after now", answer.Wake)
		}
		rounds, made := 0, 0
		for ; answer.Service != nil || len(answer.Moves) > 0; rounds++ {
			if rounds == 5 {
				t.Fatalf("the plan of its own result is never empty: %s", show(answer))
			}
			obey(&s, answer, &made)
			answer = Plan(s)
		}
		settled(t, s)
	})
}

// runsFresh reports whether a task of the target revision runs in task's slot:
// then stopping task takes nothing down.
func runsFresh(s Situation, task Task) bool {
	for _, o := range s.Tasks {
		if o.Slot == task.Slot && o.ID != task.ID && o.Observed == taskstate.Running && o.Desired <= taskstate.Running {
			return true
		}
	}
	return false
}

// settled holds a state whose plan is empty to the sums that must add up.
func settled(t *rapid.T, s Situation) {
	if s.Service.GetSpec().GetGlobal() != nil || s.Service.GetRemoving() {
		return
	}
	slots, live := make(map[uint64]bool), make(map[uint64]int)
	for _, task := range s.Tasks {
		if task.Desired == taskstate.Remove {
			if !taskstate.Terminal(task.Observed) && !task.Node.IsZero() {
				slots[task.Slot] = true // may be wanted again, and waits
			}
			continue
		}
		slots[task.Slot] = true
		if task.Desired <= taskstate.Running && !taskstate.Terminal(task.Observed) {
			live[task.Slot]++
		}
	}
	want := int(s.Service.GetSpec().GetReplicated().GetReplicas())
	if len(slots) < want {
		t.Errorf("%d slots, want %d", len(slots), want)
	}
	if len(live) > want {
		t.Errorf("%d slots with a task meant to run, want %d at most", len(live), want)
	}
	for slot, n := range live {
		if n > 2 {
			t.Errorf("slot %d has %d tasks meant to run", slot, n)
		}
	}
}

// BenchmarkPlan plans 10,000 replicas: all to be made, and all as they should be.
func BenchmarkPlan(b *testing.B) {
	for _, bb := range []struct {
		name  string
		tasks int
	}{{"empty", 0}, {"satisfied", 10_000}} {
		b.Run(bb.name, func(b *testing.B) {
			tasks := make([]Task, bb.tasks)
			for i := range tasks {
				tasks[i] = a(1, uint64(i+1), on(1+i%3))
				tasks[i].ID = id.New()
			}
			s := svc(10_000)
			ns := nodes()
			b.ReportAllocs()
			for b.Loop() {
				if got := Plan(Situation{Service: s, Tasks: tasks, Nodes: ns, Now: time.Unix(1e6, 0)}); len(got.Moves) != 10_000-bb.tasks {
					b.Fatal(len(got.Moves))
				}
			}
		})
	}
}
