package bubble

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

func TestAgentsLeaveAManagerThatIsCutOffFromTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(6, ms[0])
		ms[0].mustRun("web", 6)
		ms[0].ready(9)
		before := ids(ms[0].tasks("web", every))
		m := ms[2]
		c.net.split(m.addr, ms[0].addr, true)
		c.net.split(m.addr, ms[1].addr, true)
		c.until(lease*2/3, "every agent with another manager", func() bool {
			return !slices.ContainsFunc(ws, func(w *host) bool { return c.log.sessionOf(w) == m.port() })
		})
		c.throughout(2*lease, "every worker ready", func() bool {
			for _, w := range ws {
				if ms[0].state(w) == down {
					return false
				}
			}
			return true
		})
		if after := ids(ms[0].tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v, want none replaced: %v", after, before)
		}
		c.net.split(m.addr, ms[0].addr, false)
		c.net.split(m.addr, ms[1].addr, false)
		c.until(10*time.Second, "a write through the manager that is back", func() bool {
			_, err := m.create(3*time.Second, replicated("after", 1))
			return err == nil
		})
	})
}

func TestALeaderThatNobodyHearsIsReplacedThoughItHearsOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		c.net.hold(ms[0].addr, ms[1].addr, true)
		c.net.hold(ms[0].addr, ms[2].addr, true)
		if took, err := ms[1].create(10*time.Second, replicated("after", 1)); err != nil || took > 3*time.Second {
			t.Errorf("a write after the leader fell silent: %v after %v", err, took)
		}
	})
}

func TestTheLeaderMayBeDemoted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		if err := ms[1].update(ms[0], asWorker, 0); err != nil {
			t.Fatal(err)
		}
		c.until(5*time.Second, "the leader a worker", func() bool {
			n := ms[1].nodes()["m1"]
			return n.GetNode().GetRole() == asWorker && n.GetManager() == nil
		})
		if took, err := ms[2].create(5*time.Second, replicated("after", 1)); err != nil || took > time.Second {
			t.Errorf("a write after the leader was demoted: %v after %v", err, took)
		}
		c.until(5*time.Second, "all three ready", func() bool {
			for _, v := range ms[1].nodes() {
				if v.GetNode().GetStatus().GetState() != ready {
					return false
				}
			}
			return true
		})
	})
}

func TestManagersRestartedOneByOneMoveNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(3, ms[0])
		ms[0].mustRun("web", 6)
		ms[0].ready(6)
		before := ids(ms[0].tasks("web", every))
		for i, m := range ms {
			m.shutdown()
			other := ms[(i+1)%3]
			if took, err := other.create(5*time.Second, replicated(fmt.Sprintf("during%d", i), 0)); err != nil || took > time.Second {
				t.Errorf("a write while %s is stopped: %v after %v", m.name, err, took)
			}
			time.Sleep(3 * time.Second)
			m.start()
			c.until(10*time.Second, m.name+" ready", func() bool { return other.state(m) == ready })
			time.Sleep(3 * time.Second)
		}
		if after := ids(ms[0].tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v, want none moved: %v", after, before)
		}
		for _, w := range ws {
			for _, task := range w.containers.Tasks() {
				if got := w.containers.Starts(task); got != 1 {
					t.Errorf("task %s was started %d times", task, got)
				}
			}
		}
	})
}

func TestASwarmWhoseDaemonsAllDieComesBackAsItWas(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		c.workers(3, ms[0])
		ms[0].mustRun("web", 6)
		ms[0].ready(6)
		before := ids(ms[0].tasks("web", every))
		for _, h := range c.hosts {
			h.kill()
		}
		time.Sleep(time.Minute)
		for _, h := range c.hosts {
			h.start()
		}
		c.until(10*time.Second, "a write", func() bool {
			_, err := ms[1].create(3*time.Second, replicated("after", 0))
			return err == nil
		})
		ms[0].ready(6)
		time.Sleep(2 * lease)
		if after := ids(ms[0].tasks("web", isRunning)); !slices.Equal(before, after) {
			t.Errorf("tasks %v run, want those that ran: %v", after, before)
		}
	})
}

func TestAfterAPowerCutEveryTaskIsReplacedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(3, ms[0])
		ms[0].mustRun("web", 6)
		ms[0].ready(6)
		for _, h := range c.hosts {
			h.kill()
			h.containers.Reboot()
			h.boot()
		}
		time.Sleep(time.Minute)
		for _, h := range c.hosts {
			h.start()
		}
		up := func() (n int) {
			for _, w := range ws {
				n += len(w.containers.Running())
			}
			return n
		}
		c.until(20*time.Second, "six containers again", func() bool { return up() == 6 && len(ms[1].tasks("web", isRunning)) == 6 })
		c.throughout(2*lease, "six containers", func() bool { return up() == 6 })
		starts := 0
		for _, w := range ws {
			for _, task := range w.containers.Tasks() {
				starts += w.containers.Starts(task)
			}
		}
		if starts > 12 {
			t.Errorf("%d starts in all, want 6 before the cut and 6 after it", starts)
		}
	})
}

func TestWhenMostNodesFallSilentAtOnceReplacementWaitsOneMoreLease(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(4, m)
		m.mustRun("web", 8)
		before := ids(m.tasks("web", every))
		for _, w := range ws[:3] {
			c.net.setDark(w.addr, true)
		}
		c.throughout(lease+5*time.Second, "nothing replaced", func() bool { return slices.Equal(ids(m.tasks("web", every)), before) })
		for _, w := range ws[:3] {
			c.net.setDark(w.addr, false)
		}
		c.until(5*time.Second, "all ready again", func() bool { return len(m.tasks("web", isRunning)) == 8 })
		c.throughout(2*lease, "nothing replaced", func() bool { return slices.Equal(ids(m.tasks("web", every)), before) })

		for _, w := range ws[:3] {
			c.net.setDark(w.addr, true)
		}
		took := c.until(3*lease, "all tasks on the one that is left", func() bool { return len(ws[3].containers.Running()) == 8 })
		if took < 2*lease-beat-time.Second {
			t.Errorf("replaced after %v, want two leases", took)
		}
	})
}

func TestAServiceRemovedWhileAHostIsDarkIsRemovedThereWhenItReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		c.net.setDark(ws[0].addr, true)
		time.Sleep(time.Second)
		ctx, stop := c.within(5 * time.Second)
		defer stop()
		if _, err := m.control().RemoveService(ctx, &controlv1.RemoveServiceRequest{RequestId: requestID(), Ref: "web"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := len(ws[1].containers.Tasks()); got != 0 {
			t.Errorf("%d containers left on the host that was there", got)
		}
		c.net.setDark(ws[0].addr, false)
		c.until(10*time.Second, "no container of the service left", func() bool { return len(ws[0].containers.Tasks()) == 0 })
	})
}

func TestWritesUnderWayWhenTheLeaderDiesAreDoneOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		var wg sync.WaitGroup
		errs := make([]error, 60)
		for i := range errs {
			via := ms[1+i%2]
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, errs[i] = via.create(10*time.Second, replicated(fmt.Sprintf("s%d", i), 0))
			})
		}
		time.Sleep(25 * time.Millisecond)
		ms[0].kill()
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("service s%d: %v", i, err)
			}
		}
		ctx, stop := c.within(5 * time.Second)
		defer stop()
		resp, err := ms[1].control().ListServices(ctx, &controlv1.ListServicesRequest{})
		if err != nil || len(resp.GetServices()) != len(errs) {
			t.Errorf("%d services, %v; want %d", len(resp.GetServices()), err, len(errs))
		}
	})
}

func TestANodeThatLeavesHasItsTasksReplacedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		if _, err := ws[0].local().Leave(ctx, &localv1.LeaveRequest{}); err != nil {
			t.Fatal(err)
		}
		c.until(2*time.Second, "four tasks on the other host", func() bool {
			return len(ws[1].containers.Running()) == 4 && len(ws[0].containers.Tasks()) == 0
		})
	})
}

func TestANewClusterFromOneManagerKeepsTheAgentsAndTheirTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(3, ms[0])
		ms[0].mustRun("web", 6)
		ms[0].ready(6)
		before := ids(ms[0].tasks("web", every))
		ms[1].kill()
		ms[2].kill()
		time.Sleep(5 * time.Second)
		ctx, stop := c.within(20 * time.Second)
		defer stop()
		_, err := ms[0].local().Init(ctx, &localv1.InitRequest{AdvertiseAddr: ms[0].addr, ListenAddr: ms[0].addr, ForceNewCluster: true})
		if err != nil {
			t.Fatal(err)
		}
		if took, err := ms[0].create(5*time.Second, replicated("after", 3)); err != nil || took > time.Second {
			t.Errorf("a write to the new cluster: %v after %v", err, took)
		}
		c.until(2*lease, "every worker ready and the new service running", func() bool {
			for _, w := range ws {
				if ms[0].state(w) != ready {
					return false
				}
			}
			return len(ms[0].tasks("after", isRunning)) == 3
		})
		time.Sleep(2 * lease)
		if after := ids(ms[0].tasks("web", isRunning)); !slices.Equal(before, after) {
			t.Errorf("tasks %v run, want those that ran: %v", after, before)
		}
		for _, w := range ws {
			for _, task := range w.containers.Tasks() {
				if got := w.containers.Starts(task); got != 1 {
					t.Errorf("task %s was started %d times", task, got)
				}
			}
		}
		// The others come back as workers of it.
		ms[1].start()
		c.until(30*time.Second, "a former manager back as a worker", func() bool { return ms[0].state(ms[1]) == ready })
		if got := ms[0].nodes()["m2"].GetNode().GetRole(); got != asWorker {
			t.Errorf("it is a %v", got)
		}
	})
}

func TestARuntimeThatIsDownIsNotTheEndOfItsTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		before := ids(m.tasks("web", every))
		ws[0].containers.SetDown(true)
		time.Sleep(2 * time.Minute)
		ws[0].containers.SetDown(false)
		time.Sleep(lease)
		if after := ids(m.tasks("web", isRunning)); !slices.Equal(before, after) {
			t.Errorf("tasks %v run, want those that ran: %v", after, before)
		}
	})
}
