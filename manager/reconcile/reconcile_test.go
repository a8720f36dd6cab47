package reconcile

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// bubble runs f in a bubble with a world of so many nodes, its fleet and a loop.
func bubble(t *testing.T, nodes int, f func(t *testing.T, w *world, fl *fleet)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for n := range nodes {
			w.node(n, nil)
		}
		stop := w.start()
		f(t, w, newFleet(w, nodes, nil))
		synctest.Wait()
		stop()
	})
}

func (w *world) want(count int, what string, got []*store.Task) {
	w.t.Helper()
	if len(got) != count {
		w.t.Errorf("%d tasks %s, want %d", len(got), what, count)
		for i, t := range got {
			w.t.Logf("  %d: slot %d node %v rev %d desired %s observed %s %q", i, t.Slot, t.Node, t.Revision,
				taskstate.Name(t.Desired), taskstate.Name(t.Observed), t.Reason)
		}
	}
}

func TestANewServiceRunsSpreadOverTheNodes(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 6, nil)
		f.settle(synctest.Wait)
		w.want(6, "running", w.tasks(1, running))
		for n := range 3 {
			w.want(2, "on a node", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Node == nodeID(n) }))
		}
		for i, task := range w.tasks(1, running) {
			if task.Slot != uint64(i+1) {
				t.Errorf("slot %d at place %d, want %d", task.Slot, i, i+1)
			}
		}
	})
}

func TestAStateThatIsAsItShouldBeProposesNothing(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 6, nil)
		w.create(2, 2, func(_ *modelv1.Service, tt *modelv1.TaskTemplate) {
			tt.Placement = &modelv1.Placement{Constraints: []string{"node.role==manager"}}
		})
		f.settle(synctest.Wait)
		before := w.entries
		time.Sleep(time.Hour)
		w.start() // a second loop finds the same
		synctest.Wait()
		time.Sleep(time.Hour)
		if w.entries != before {
			t.Errorf("%d entries were proposed for nothing", w.entries-before)
		}
	})
}

func TestScalingRemovesTheHighestSlotsAndTheirTasks(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 5, nil)
		f.settle(synctest.Wait)
		w.scale(1, 2)
		f.settle(synctest.Wait)
		all := w.tasks(1, func(*store.Task) bool { return true })
		w.want(2, "left", all)
		if len(all) == 2 && (all[0].Slot != 1 || all[1].Slot != 2) {
			t.Errorf("slots %d and %d are left, want 1 and 2", all[0].Slot, all[1].Slot)
		}
		w.scale(1, 4)
		f.settle(synctest.Wait)
		w.want(4, "running", w.tasks(1, running))
	})
}

func TestAFailedTaskIsFollowedAfterTheDelay(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 1, nil)
		f.settle(synctest.Wait)
		w.report(w.tasks(1, running)[0], taskstate.Failed)
		time.Sleep(4900 * time.Millisecond)
		f.settle(synctest.Wait)
		w.want(0, "before the delay is over", w.tasks(1, wanted))
		time.Sleep(200 * time.Millisecond)
		f.settle(synctest.Wait)
		w.want(1, "after the delay", w.tasks(1, running))
		w.want(2, "in the slot's history", w.tasks(1, func(*store.Task) bool { return true }))
	})
}

// TestDelaysEndThoughALeadersClockWasWrong: log time is an hour ahead, and nobody
// logs anything while the delay runs.
func TestDelaysEndThoughALeadersClockWasWrong(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 1, nil)
		f.settle(synctest.Wait)
		w.clockWasOff(time.Hour)
		for range 3 {
			w.report(w.tasks(1, running)[0], taskstate.Failed)
			time.Sleep(4900 * time.Millisecond)
			f.settle(synctest.Wait)
			w.want(0, "before the delay is over", w.tasks(1, wanted))
			time.Sleep(800 * time.Millisecond)
			f.settle(synctest.Wait)
			w.want(1, "after the delay", w.tasks(1, running))
		}
	})
}

// TestATaskLostWithItsHostIsFollowedAtOnce: a reboot is no failure of the task,
// whose successor may fail like any other.
func TestATaskLostWithItsHostIsFollowedAtOnce(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 1, nil)
		f.settle(synctest.Wait)
		time.Sleep(time.Second)
		w.write(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: nodeID(0).Bytes(), Status: &modelv1.NodeStatus{
			State: modelv1.NodeState_NODE_STATE_READY, RebootedAt: time.Now().UnixNano(),
		}}}})
		w.report(w.tasks(1, running)[0], taskstate.Failed)
		f.settle(synctest.Wait)
		w.want(1, "at once", w.tasks(1, running))
		w.report(w.tasks(1, running)[0], taskstate.Failed)
		f.settle(synctest.Wait)
		w.want(0, "before the delay of the second is over", w.tasks(1, wanted))
	})
}

func TestHistoryIsBounded(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 1, nil)
		for range 12 {
			f.settle(synctest.Wait)
			for _, task := range w.tasks(1, running) {
				w.report(task, taskstate.Failed)
			}
			time.Sleep(6 * time.Second)
		}
		f.settle(synctest.Wait)
		w.want(5, "kept", w.tasks(1, func(*store.Task) bool { return true }))
		w.want(1, "running", w.tasks(1, running))
	})
}

func TestTasksOfALostNodeAreReplacedAtOnceAndNotMovedBack(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 3, nil)
		f.settle(synctest.Wait)
		f.up[0] = false
		w.seen(0, modelv1.NodeState_NODE_STATE_UNKNOWN)
		f.settle(synctest.Wait)
		w.want(3, "while the node is only unknown", w.tasks(1, func(*store.Task) bool { return true }))
		start := time.Now()
		w.seen(0, modelv1.NodeState_NODE_STATE_DOWN)
		f.settle(synctest.Wait)
		w.want(3, "running", w.tasks(1, running))
		lost := w.tasks(1, func(t *store.Task) bool { return t.Node == nodeID(0) })
		if len(lost) != 1 || lost[0].Desired != taskstate.Shutdown || lost[0].Observed != taskstate.Running {
			t.Fatalf("lost task %+v, want desired shutdown, observed running as last heard", lost)
		}
		if lost[0].Reason != "node dev00 is down" {
			t.Errorf("reason %q", lost[0].Reason)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("replaced after %v, want at once", waited)
		}
		f.up[0] = true
		w.seen(0, modelv1.NodeState_NODE_STATE_READY)
		f.settle(synctest.Wait)
		w.want(0, "wanted on the node that is back", w.tasks(1, func(t *store.Task) bool { return wanted(t) && t.Node == nodeID(0) }))
		w.want(1, "that report their real end", w.tasks(1, func(t *store.Task) bool { return t.Observed == taskstate.Shutdown }))
	})
}

func TestALostTaskIsGivenUpAfterADay(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 2, nil)
		f.settle(synctest.Wait)
		f.up[0] = false
		w.seen(0, modelv1.NodeState_NODE_STATE_DOWN)
		f.settle(synctest.Wait)
		orphaned := func(t *store.Task) bool { return t.Observed == taskstate.Orphaned }
		time.Sleep(23 * time.Hour)
		w.want(0, "orphaned after 23 hours", w.tasks(1, orphaned))
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		w.want(1, "orphaned after a day", w.tasks(1, orphaned))
	})
}

func TestARemovedNodeLosesItsTasks(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 2, nil)
		f.settle(synctest.Wait)
		f.up[0] = false
		w.write(remove(store.KindNode, nodeID(0).Bytes()))
		f.settle(synctest.Wait)
		w.want(2, "running on the other", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Node == nodeID(1) }))
		w.want(1, "orphaned and told why", w.tasks(1, func(t *store.Task) bool {
			return t.Observed == taskstate.Orphaned && strings.Contains(t.Status().GetError(), "removed from the swarm")
		}))
	})
}

func TestDrainStopsFirstAndDoesNotWait(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 2, nil)
		f.settle(synctest.Wait)
		w.node(0, func(n *modelv1.Node) { n.Spec.Availability = modelv1.Availability_AVAILABILITY_DRAIN })
		synctest.Wait()
		w.want(1, "until the old one has stopped", w.tasks(1, wanted))
		f.settle(synctest.Wait)
		w.want(2, "on the other node", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Node == nodeID(1) }))
	})
}

func TestATaskLeavesANodeThatNoLongerMatches(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		label := func(zone string) func(*modelv1.Node) {
			return func(n *modelv1.Node) { n.Spec.Labels = map[string]string{"zone": zone} }
		}
		w.node(0, label("a"))
		w.create(1, 1, func(_ *modelv1.Service, tt *modelv1.TaskTemplate) {
			tt.Placement = &modelv1.Placement{Constraints: []string{"node.labels.zone==a"}}
		})
		f.settle(synctest.Wait)
		w.want(1, "running", w.tasks(1, running))
		w.node(0, label("b"))
		f.settle(synctest.Wait)
		pending := w.tasks(1, wanted)
		w.want(1, "pending", pending)
		if want := "no suitable node among 2 (2 do not satisfy node.labels.zone==a)"; len(pending) == 1 && pending[0].Reason != want {
			t.Errorf("reason %q, want %q", pending[0].Reason, want)
		}
		w.node(1, label("a"))
		f.settle(synctest.Wait)
		got := w.tasks(1, running)
		w.want(1, "running again", got)
		if len(got) == 1 && (got[0].Node != nodeID(1) || got[0].Reason != "") {
			t.Errorf("on %v for %q, want the node that matches and no reason", got[0].Node, got[0].Reason)
		}
	})
}

func TestAPendingTaskIsPlacedWhenRoomIsMade(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, f *fleet) {
		w.write(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: nodeID(0).Bytes(),
			Description: &modelv1.NodeDescription{Resources: &modelv1.Resources{MemoryBytes: 1000}}}}})
		big := func(_ *modelv1.Service, tt *modelv1.TaskTemplate) {
			tt.Reservations = &modelv1.Resources{MemoryBytes: 700}
		}
		w.create(1, 1, big)
		f.settle(synctest.Wait)
		w.create(2, 1, big)
		f.settle(synctest.Wait)
		w.want(0, "of the second running", w.tasks(2, running))
		if p := w.tasks(2, wanted); len(p) != 1 || p[0].Reason != "no suitable node among 1 (1 has less than 700B of memory free)" {
			t.Errorf("pending: %+v", p)
		}
		w.scale(1, 0)
		f.settle(synctest.Wait)
		w.want(1, "of the second running", w.tasks(2, running))
	})
}

func TestARemovedServiceIsDeletedWithItsName(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 3, nil)
		f.settle(synctest.Wait)
		f.up[2] = false // a dead host does not hold it up
		w.seen(2, modelv1.NodeState_NODE_STATE_DOWN)
		f.settle(synctest.Wait)
		w.edit(1, nil, func(s *modelv1.Service) { s.Removing = true })
		f.settle(synctest.Wait)
		snap := w.store.Snapshot()
		if snap.Service(serviceID(1)) != nil || snap.Claim(store.ClaimServiceName, "svc1") != nil || snap.CountTasks() != 0 {
			t.Errorf("left: %v, claim %v, %d tasks", snap.Service(serviceID(1)), snap.Claim(store.ClaimServiceName, "svc1"), snap.CountTasks())
		}
	})
}

func TestAGlobalServiceFollowsTheNodes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 0, func(s *modelv1.Service, _ *modelv1.TaskTemplate) {
			s.Spec.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
		})
		f.settle(synctest.Wait)
		w.want(2, "running", w.tasks(1, running))
		w.node(2, nil)
		f.up[2] = true
		f.settle(synctest.Wait)
		w.want(3, "with the new node", w.tasks(1, running))
		f.up[0] = false
		w.seen(0, modelv1.NodeState_NODE_STATE_DOWN)
		w.node(1, func(n *modelv1.Node) { n.Spec.Availability = modelv1.Availability_AVAILABILITY_DRAIN })
		f.settle(synctest.Wait)
		w.want(1, "with one down and one drained", w.tasks(1, running))
		f.up[0] = true
		w.seen(0, modelv1.NodeState_NODE_STATE_READY)
		f.settle(synctest.Wait)
		w.want(2, "with the one that is back", w.tasks(1, running))
		w.edit(1, &modelv1.TaskTemplate{Force: 1}, nil)
		f.settle(synctest.Wait)
		w.want(2, "of the new revision", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 2 }))
	})
}

func TestANodeThatSwallowsTasksBecomesTheLastChoice(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, f *fleet) {
		w.create(9, 4, nil)
		f.settle(synctest.Wait)
		w.node(2, nil)
		f.up[2] = true // the emptiest node, and broken
		f.crash = func(t *store.Task) bool { return t.Node == nodeID(2) }
		w.create(1, 1, nil)
		for range 12 {
			f.settle(synctest.Wait)
			time.Sleep(6 * time.Second)
		}
		w.want(1, "running on a sound node", w.tasks(1, running))
	})
}
