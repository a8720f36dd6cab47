package bubble

import (
	"slices"
	"testing"
	"time"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestAServiceRunsOnTheAgentsInEqualParts(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		for _, w := range ws {
			if got := len(w.containers.Running()); got != 2 {
				t.Errorf("%s runs %d containers, want 2", w.name, got)
			}
		}
	})
}

func TestTheTasksOfADarkHostAreReplacedAfterTheLeaseAndNotBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(3, m)
		m.mustRun("web", 6)
		dark := ws[0]
		lost := ids(m.tasks("web", on(dark)))
		kept := ids(m.tasks("web", func(v *taskView) bool { return !on(dark)(v) }))
		began := time.Now()
		c.net.setDark(dark.addr, true)

		c.throughout(lease-beat-100*time.Millisecond, "six tasks, none replaced", func() bool {
			return len(m.tasks("web", every)) == 6
		})
		if m.state(dark) != unknown {
			t.Errorf("the dark host's node is %v before the end of its lease, want unknown", m.state(dark))
		}
		for _, v := range m.tasks("web", on(dark)) {
			since := time.Unix(0, v.GetUnknownSince())
			if v.GetUnknownSince() == 0 || since.After(began) || began.Sub(since) > beat+time.Second {
				t.Errorf("a task of the dark host is unknown since %v, want the last beat before %v", since, began)
			}
		}
		c.until(3*time.Second, "six tasks running elsewhere", func() bool {
			return len(m.tasks("web", isRunning)) == 6 && len(ws[1].containers.Running())+len(ws[2].containers.Running()) == 6
		})
		if m.state(dark) != down {
			t.Errorf("its node is %v when its tasks are replaced, want down", m.state(dark))
		}
		if took := time.Since(began); took > lease+time.Second {
			t.Errorf("replaced after %v: the restart delay was waited for", took)
		}

		// Twice there for a while: the swarm cannot reach it to stop them.
		time.Sleep(30 * time.Second)
		if got := len(dark.containers.Running()); got != 2 {
			t.Errorf("the dark host runs %d containers, want its 2", got)
		}
		moved := ids(m.tasks("web", isRunning))
		c.net.setDark(dark.addr, false)
		c.until(10*time.Second, "the dark host's containers stopped and their end told", func() bool {
			if len(dark.containers.Running()) > 0 {
				return false
			}
			for _, v := range m.tasks("web", on(dark)) {
				if slices.Contains(lost, ids([]*taskView{v})[0]) && v.GetTask().GetStatus().GetState() != modelv1.TaskState_TASK_STATE_SHUTDOWN {
					return false
				}
			}
			return m.state(dark) == ready
		})
		if got := m.tasks("web", on(dark)); len(got) < len(lost) {
			t.Errorf("%d tasks of the dark host are remembered, want %d", len(got), len(lost))
		}
		c.throughout(30*time.Second, "the replacements where they are", func() bool {
			return slices.Equal(ids(m.tasks("web", isRunning)), moved)
		})
		for _, k := range kept {
			if !slices.Contains(moved, k) {
				t.Errorf("task %s was never lost and runs no more", k)
			}
		}
	})
}

func TestAnAgentThatRestartsWithinItsLeaseKeepsItsTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		before := ids(m.tasks("web", every))
		ws[0].kill()
		time.Sleep(5 * time.Second)
		ws[0].start()
		c.until(3*time.Second, "every task known to run", func() bool { return len(m.tasks("web", isRunning)) == 4 })
		time.Sleep(2 * lease)
		if after := ids(m.tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v after the restart, want %v", after, before)
		}
		for _, task := range ws[0].containers.Tasks() {
			if got := ws[0].containers.Starts(task); got != 1 {
				t.Errorf("task %s was started %d times", task, got)
			}
		}
	})
}

func TestARestartedHostHasItsTasksReplacedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		ws[0].kill()
		ws[0].containers.Reboot()
		ws[0].boot()
		time.Sleep(2 * time.Second)
		ws[0].start()
		// The restart policy's delay is 5 s; proof that the containers are gone is
		// their end, so it applies.
		c.until(lease-2*time.Second, "four tasks running", func() bool {
			return len(m.tasks("web", isRunning)) == 4 && len(ws[0].containers.Running())+len(ws[1].containers.Running()) == 4
		})
	})
}

func TestADaemonThatSaidItRestartsHasAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		before := ids(m.tasks("web", every))
		ws[0].shutdown()
		c.throughout(58*time.Second, "four tasks, none replaced", func() bool {
			return slices.Equal(ids(m.tasks("web", every)), before)
		})
		ws[0].start()
		c.until(3*time.Second, "every task known to run", func() bool { return len(m.tasks("web", isRunning)) == 4 })
		if after := ids(m.tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v after the restart, want %v", after, before)
		}

		ws[0].shutdown()
		took := c.until(70*time.Second, "four tasks running on the other host", func() bool {
			return len(ws[1].containers.Running()) == 4
		})
		if took < 59*time.Second {
			t.Errorf("replaced %v after the farewell, want a minute", took)
		}
	})
}

func TestDrainMovesTasksAndActiveDoesNotMoveThemBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		if err := m.update(ws[0], 0, modelv1.Availability_AVAILABILITY_DRAIN); err != nil {
			t.Fatal(err)
		}
		c.until(3*time.Second, "four tasks on the other host", func() bool {
			return len(ws[0].containers.Running()) == 0 && len(ws[1].containers.Running()) == 4
		})
		if err := m.update(ws[0], 0, modelv1.Availability_AVAILABILITY_ACTIVE); err != nil {
			t.Fatal(err)
		}
		c.throughout(20*time.Second, "four tasks on the other host", func() bool { return len(ws[1].containers.Running()) == 4 })
	})
}
