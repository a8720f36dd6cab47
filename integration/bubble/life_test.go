package bubble

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
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

func TestAHostThatSaysItGoesDownHasItsTasksReplacedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		ws[0].shutdown()
		a := ws[0].alone()
		c.until(5*time.Second, "every task known to run", func() bool { return len(m.tasks("web", isRunning)) == 4 })
		ctx, stop := c.within(5 * time.Second)
		defer stop()
		if err := a.agent.Farewell(ctx, modelv1.Farewell_FAREWELL_HOST_DOWN); err != nil {
			t.Fatal(err)
		}
		a.stop()
		took := c.until(2*time.Second, "four tasks on the other host", func() bool { return len(ws[1].containers.Running()) == 4 })
		t.Logf("replaced after %v", took)
		if got := m.state(ws[0]); got != down {
			t.Errorf("its node is %v, want down", got)
		}
	})
}

func TestARemovedNodeIsCutOffAndItsCertificateRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(3, m)
		m.mustRun("web", 6)

		gone := ws[0] // removed while it is away
		gone.kill()
		c.until(lease+2*time.Second, "the dead node down", func() bool { return m.state(gone) == down })
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		if _, err := m.control().RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: gone.id.String()}); err != nil {
			t.Fatal(err)
		}
		gone.start()
		refused := func(h *host) func() bool {
			return func() bool {
				ctx, stop := c.within(time.Second)
				defer stop()
				info, err := h.local().Info(ctx, &localv1.InfoRequest{})
				return err == nil && info.GetState() == localv1.State_STATE_ERROR && info.GetError() != ""
			}
		}
		c.until(5*time.Second, "the removed node told so", refused(gone))

		live := ws[1] // removed by force while it runs
		if _, err := m.control().RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: live.id.String(), Force: true}); err != nil {
			t.Fatal(err)
		}
		c.until(time.Second, "the live node told that it is removed", refused(live))
		// In the instant of the removal its tasks are not planned anew yet.
		c.until(10*time.Second, "all tasks on the one that is left, and none on a node that was removed", func() bool {
			run := m.tasks("web", isRunning)
			return len(run) == 6 && !slices.ContainsFunc(run, func(v *taskView) bool { return !on(ws[2])(v) })
		})
	})
}

func TestARollingUpdateNeverHasMoreThanItsParallelismDown(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(3, m)
		for _, w := range ws {
			w.containers.SetScript(func(exec.Spec) exectest.Script {
				return exectest.Script{PrepareDelay: 300 * time.Millisecond, StartDelay: 100 * time.Millisecond, StopDelay: 400 * time.Millisecond}
			})
		}
		spec := replicated("web", 10)
		spec.Update = &modelv1.UpdateConfig{Parallelism: 2, Monitor: int64(time.Second)}
		if _, err := m.create(5*time.Second, spec); err != nil {
			t.Fatal(err)
		}
		up := func() (n int) {
			for _, w := range ws {
				n += len(w.containers.Running())
			}
			return n
		}
		c.until(5*time.Second, "ten containers", func() bool { return up() == 10 })
		before := ids(m.tasks("web", isRunning))

		ctx, stop := c.within(5 * time.Second)
		defer stop()
		got, err := m.control().GetService(ctx, &controlv1.GetServiceRequest{Ref: "web"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.control().UpdateService(ctx, &controlv1.UpdateServiceRequest{
			RequestId: requestID(), Ref: "web", Version: got.GetService().GetService().GetMeta().GetVersion(),
			Spec: spec, Template: template("app:2"),
		})
		if err != nil {
			t.Fatal(err)
		}
		least := 10
		c.until(time.Minute, "every task of the new revision", func() bool {
			least = min(least, up())
			fresh := 0
			for _, v := range m.tasks("web", isRunning) {
				if v.GetTask().GetRevision() == 2 {
					fresh++
				}
			}
			return fresh == 10
		})
		if least < 8 || least == 10 {
			t.Errorf("%d containers ran at the least, want 8 (two slots at a time)", least)
		}
		for _, x := range ids(m.tasks("web", isRunning)) {
			if slices.Contains(before, x) {
				t.Errorf("task %s of the old revision runs on", x)
			}
		}
		c.until(5*time.Second, "the update told to be complete", func() bool {
			got, err := m.control().GetService(t.Context(), &controlv1.GetServiceRequest{Ref: "web"})
			return err == nil && got.GetService().GetService().GetUpdate().GetState() == modelv1.UpdateState_UPDATE_STATE_COMPLETED
		})
	})
}

func TestANodeThatLostItsJournalIsHeardAndKeepsItsTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		before := ids(m.tasks("web", every))
		for range 3 { // its sessions are counted upward
			ws[0].kill()
			time.Sleep(time.Second)
			ws[0].start()
			time.Sleep(time.Second)
		}
		ws[0].kill()
		ws[0].await()
		if err := os.RemoveAll(filepath.Join(ws[0].disk, "state", "agent")); err != nil {
			t.Fatal(err)
		}
		ws[0].start()
		c.until(beat, "the node ready again", func() bool { return m.state(ws[0]) == ready })
		c.throughout(2*lease, "the node ready", func() bool { return m.state(ws[0]) == ready })
		if after := ids(m.tasks("web", isRunning)); !slices.Equal(before, after) {
			t.Errorf("tasks %v run, want those that ran: %v", after, before)
		}
	})
}
