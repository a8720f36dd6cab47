package bubble

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func TestAWriteSucceedsSoonAfterTheLeaderIsLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(c *cluster, leader *host)
		most time.Duration
	}{
		{"its process is killed", func(_ *cluster, leader *host) { leader.kill() }, time.Second},
		{"its host goes dark", func(c *cluster, leader *host) { c.net.setDark(leader.addr, true) }, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				c.workers(4, ms[0])
				ms[1].mustRun("web", 8)
				ms[1].ready(7)
				time.Sleep(time.Second)
				began := time.Now()
				tt.lose(c, ms[0])
				took, err := ms[1].create(10*time.Second, replicated("after", 1))
				if err != nil || took > tt.most {
					t.Errorf("the first write after the loss: %v after %v, want success within %v", err, took, tt.most)
				}
				t.Logf("the first write took %v", took)
				c.throughout(2*lease, "every surviving node ready", func() bool {
					for name, v := range ms[2].nodes() {
						if s := v.GetNode().GetStatus().GetState(); name != "m1" && s != ready {
							t.Logf("%s is %v: %s", name, s, v.GetNode().GetStatus().GetMessage())
							return false
						}
					}
					return true
				})
				if got := ms[2].state(ms[0]); got != down {
					t.Errorf("the lost leader's node is %v, want down", got)
				}
				for _, h := range c.hosts[1:] {
					before, after := c.log.sessionAt(h, began), c.log.sessionOf(h)
					if before != ms[0].port() && before != after || after == ms[0].port() {
						t.Errorf("%s had its session with %s and has it with %s; only those of the lost manager go elsewhere", h.name, before, after)
					}
				}
				if got := len(ms[1].tasks("web", isRunning)); got != 8 {
					t.Errorf("%d tasks run, want 8", got)
				}
			})
		})
	}
}

func TestWithoutAQuorumReadsAreRefusedWithNamesAndStaleOnesAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		ms[1].kill()
		c.net.setDark(ms[2].addr, true)
		time.Sleep(5 * time.Second)

		ctx, stop := c.within(time.Minute)
		defer stop()
		for what, ask := range map[string]func() error{
			"a read": func() error {
				_, err := ms[0].control().ListNodes(ctx, &controlv1.ListNodesRequest{})
				return err
			},
			"a write": func() error { _, err := ms[0].create(time.Minute, replicated("web", 1)); return err },
		} {
			began := time.Now()
			err := ask()
			took := time.Since(began)
			if !errdefs.IsUnavailable(err) || took > 3*time.Second {
				t.Errorf("%s: %v after %v, want unavailable within 3s", what, err, took)
			}
			missing := rpc.RefusalOf(err).GetNoQuorum().GetUnreachable()
			slices.Sort(missing)
			if len(missing) != 2 || !strings.HasPrefix(missing[0], "m2 ") || !strings.HasPrefix(missing[1], "m3 ") {
				t.Errorf("%s: missing %q, want m2 and m3", what, missing)
			}
		}
		began := time.Now()
		if got := len(ms[0].nodes()); got != 3 || time.Since(began) > 100*time.Millisecond {
			t.Errorf("a stale read shows %d nodes after %v, want 3 at once", got, time.Since(began))
		}

		ms[1].start()
		c.until(5*time.Second, "a write accepted", func() bool { _, err := ms[0].create(3*time.Second, replicated("web", 1)); return err == nil })
	})
}

func TestAManagerThatIsDemotedLosesItsSessionsWithinASecondAndMayComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		c.workers(6, ms[0])
		ms[0].mustRun("web", 6)
		m := ms[2]
		seen := map[uint64]bool{}
		note := func() {
			t.Helper()
			raft := ms[0].nodes()["m3"].GetManager().GetRaftId()
			if raft == 0 || seen[raft] {
				t.Errorf("raft id %x is zero or not new", raft)
			}
			seen[raft] = true
		}
		note()
		for range 2 {
			began := time.Now()
			if err := ms[0].update(m, asWorker, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second - time.Since(began))
			for _, h := range c.hosts {
				if c.log.sessionOf(h) == m.port() {
					t.Errorf("%s holds its session with the demoted manager after a second", h.name)
				}
			}
			ctx, stop := c.within(5 * time.Second)
			_, err := m.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
			stop()
			if rpc.RefusalOf(err).GetNotManager() == nil {
				t.Errorf("a call to the demoted manager: %v, want the refusal of a node that is no manager", err)
			}
			c.throughout(5*time.Second, "all tasks running", func() bool { return len(ms[0].tasks("web", isRunning)) == 6 })
			if err := ms[0].update(m, asManager, 0); err != nil {
				t.Fatal(err)
			}
			c.until(20*time.Second, "the promoted manager voting", func() bool { return ms[0].nodes()["m3"].GetManager().GetVoter() })
			note()
			c.until(5*time.Second, "the promoted manager answering", func() bool {
				ctx, stop := c.within(3 * time.Second)
				defer stop()
				_, err := m.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
				return err == nil
			})
			time.Sleep(10 * time.Second)
		}
		// It is a full member again: the group bears the loss of another.
		ms[0].kill()
		if took, err := m.create(5*time.Second, replicated("after", 1)); err != nil || took > time.Second {
			t.Errorf("a write through the manager that came back: %v after %v", err, took)
		}
	})
}

// TestAManagerThatStopsDoesNotSayThatTheSwarmHasNoLeader: what is asked of it in
// its last moment is done, or refused as something to be tried again.
func TestAManagerThatStopsDoesNotSayThatTheSwarmHasNoLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		leader := ms[0]
		api := leader.control()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				ctx, stop := c.within(20 * time.Second)
				defer stop()
				began := time.Now()
				_, err := api.UpdateNode(ctx, &controlv1.UpdateNodeRequest{
					RequestId: requestID(), Ref: ms[1].id.String(), LabelsAdd: map[string]string{"at": fmt.Sprint(i)},
				})
				if r := rpc.RefusalOf(err); err != nil && !errdefs.IsUnavailable(err) && r.GetUnknown() == nil || r.GetNoQuorum() != nil {
					t.Errorf("a write %d ms into the stop: %v after %v", i-50, err, time.Since(began))
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		leader.stop()
		leader.await()
		wg.Wait() // before the client's own end of the connection is closed
		leader.shutdown()
		leader.start()
	})
}
