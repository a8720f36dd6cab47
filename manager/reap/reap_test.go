package reap

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
)

var (
	epoch              = time.Unix(1_000_000, 0)
	sound, gone, alien = id.ID{15: 1}, id.ID{15: 2}, id.ID{15: 3}
)

// lostFor makes the two members: a sound one and one that is Down for so long.
func lostFor(d time.Duration) map[id.ID]Node {
	return map[id.ID]Node{sound: {}, gone: {Down: true, LostSince: epoch.Add(-d).UnixNano()}}
}

func task(n int, desired, observed taskstate.State, node id.ID) Task {
	return Task{ID: id.ID{14: 9, 15: byte(n)}, Node: node, Revision: 1, Slot: 1, CreatedIndex: uint64(n), Desired: desired, Observed: observed}
}

func ids(list []id.ID) []int {
	var out []int
	for _, x := range list {
		out = append(out, int(x[15]))
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	past := func(n int) Task { return task(n, taskstate.Shutdown, taskstate.Failed, sound) }
	live := func(n int) Task { return task(n, taskstate.Running, taskstate.Running, sound) }
	for _, tt := range []struct {
		name           string
		s              Situation
		delete, orphan []int
		revisions      []uint64
		service        bool
		wake           time.Duration // from epoch; 0 is never
	}{
		{name: "five tasks are kept", s: Situation{Tasks: []Task{past(1), past(2), past(3), past(4), past(5), past(6), live(7)}}, delete: []int{1, 2}},
		{name: "or as many as the cluster says", s: Situation{History: 2, Tasks: []Task{past(1), past(2), live(3)}}, delete: []int{1}},
		{name: "or all", s: Situation{History: -1, Tasks: []Task{past(1), past(2), past(3), past(4), past(5), past(6), live(7)}}},
		{name: "never fewer than counting attempts needs", s: Situation{History: 1, MaxAttempts: 2, Tasks: []Task{past(1), past(2), past(3), live(4)}}, delete: []int{1}},
		{name: "one that still stops is kept", s: Situation{History: 1, Tasks: []Task{task(1, taskstate.Shutdown, taskstate.Running, sound), live(2)}}},
		{name: "one that ended by itself without a successor is kept", s: Situation{History: 1, Tasks: []Task{task(1, taskstate.Running, taskstate.Complete, sound), past(2)}}, delete: []int{2}},
		{name: "one that was never placed goes like others", s: Situation{History: 1, Tasks: []Task{task(1, taskstate.Shutdown, taskstate.Pending, id.ID{}), live(2)}}, delete: []int{1}},
		{name: "REMOVE is deleted once it ended", s: Situation{Tasks: []Task{task(1, taskstate.Remove, taskstate.Shutdown, sound), task(2, taskstate.Remove, taskstate.Running, sound)}}, delete: []int{1}},
		{name: "or its node is down", s: Situation{Tasks: []Task{task(1, taskstate.Remove, taskstate.Running, gone)}}, delete: []int{1}},
		{name: "or no member", s: Situation{Tasks: []Task{task(1, taskstate.Remove, taskstate.Running, alien)}}, delete: []int{1}},
		{name: "a lost task waits a day", s: Situation{Nodes: lostFor(time.Hour), Tasks: []Task{task(1, taskstate.Shutdown, taskstate.Running, gone)}}, wake: 23 * time.Hour},
		{name: "and is given up then", s: Situation{Nodes: lostFor(24 * time.Hour), Tasks: []Task{task(1, taskstate.Shutdown, taskstate.Running, gone)}}, orphan: []int{1}},
		{name: "but not one that is meant to run yet", s: Situation{Nodes: lostFor(24 * time.Hour), Tasks: []Task{task(1, taskstate.Running, taskstate.Running, gone)}}},
		{name: "one whose node is no member is given up at once", s: Situation{Tasks: []Task{task(1, taskstate.Shutdown, taskstate.Running, alien)}}, orphan: []int{1}},
		{name: "revisions that nothing names go", s: Situation{Revisions: []uint64{1, 2, 3, 4}, Kept: []uint64{4, 3, 0}, Tasks: []Task{live(1)}}, revisions: []uint64{2}},
		{name: "a removed service goes with its last task", s: Situation{Removing: true, Revisions: []uint64{1}}, service: true},
		{name: "and not before", s: Situation{Removing: true, Tasks: []Task{task(1, taskstate.Remove, taskstate.Running, sound)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.s.Now = epoch
			if tt.s.Nodes == nil {
				tt.s.Nodes = lostFor(0)
			}
			got := Plan(tt.s)
			if !slices.Equal(ids(got.Delete), tt.delete) || !slices.Equal(ids(got.Orphan), tt.orphan) {
				t.Errorf("deletes %v and orphans %v, want %v and %v", ids(got.Delete), ids(got.Orphan), tt.delete, tt.orphan)
			}
			if !slices.Equal(got.Revisions, tt.revisions) || got.Service != tt.service {
				t.Errorf("revisions %v, service %t; want %v, %t", got.Revisions, got.Service, tt.revisions, tt.service)
			}
			if want := (time.Time{}); tt.wake != 0 && !got.Wake.Equal(epoch.Add(tt.wake)) || tt.wake == 0 && got.Wake != want {
				t.Errorf("wakes at %v", got.Wake)
			}
		})
	}
}

// TestNothingThatMayRunIsForgotten holds Plan to its invariant.
func TestNothingThatMayRunIsForgotten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Situation{Now: epoch, Nodes: lostFor(time.Duration(rapid.IntRange(0, 30).Draw(t, "hours")) * time.Hour),
			History: int64(rapid.IntRange(-1, 3).Draw(t, "history"))}
		byID := make(map[id.ID]Task)
		for n := range rapid.IntRange(0, 12).Draw(t, "tasks") {
			x := task(n, rapid.SampledFrom([]taskstate.State{taskstate.Running, taskstate.Shutdown, taskstate.Remove}).Draw(t, "desired"),
				rapid.SampledFrom([]taskstate.State{taskstate.Assigned, taskstate.Running, taskstate.Complete, taskstate.Failed, taskstate.Orphaned}).Draw(t, "observed"),
				rapid.SampledFrom([]id.ID{sound, gone, alien}).Draw(t, "node"))
			x.Slot = uint64(rapid.IntRange(1, 3).Draw(t, "slot"))
			s.Tasks = append(s.Tasks, x)
			byID[x.ID] = x
		}
		got := Plan(s)
		for _, x := range got.Delete {
			task := byID[x]
			_, member := s.Nodes[task.Node]
			if !taskstate.Terminal(task.Observed) && (task.Desired != taskstate.Remove || (member && !s.Nodes[task.Node].Down)) {
				t.Errorf("deletes %+v, which may run", task)
			}
			if task.Desired <= taskstate.Running {
				t.Errorf("deletes %+v, from which the slot's state is read", task)
			}
		}
		for _, x := range got.Orphan {
			if taskstate.Terminal(byID[x].Observed) || byID[x].Node == sound {
				t.Errorf("orphans %+v", byID[x])
			}
		}
	})
}
