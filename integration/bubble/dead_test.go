package bubble

import (
	"strings"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// afterDead is a cluster that takes dead managers out after a time.
func afterDead(d time.Duration) *modelv1.ClusterSpec {
	return &modelv1.ClusterSpec{DeadManagerRemoval: int64(d)}
}

func TestADeadManagerIsTakenOutAndComesBackAsAWorker(t *testing.T) {
	const allowed = time.Minute
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(5, afterDead(allowed))
		c.workers(1, ms[0])
		ms[0].mustRun("web", 2)
		ms[0].ready(6)
		gone := ms[4]
		raft := ms[0].nodes()["m5"].GetManager().GetRaftId()
		c.net.setDark(gone.addr, true)

		c.throughout(allowed-5*time.Second, "the dead manager a member", func() bool {
			return ms[0].nodes()["m5"].GetManager() != nil
		})
		c.until(20*time.Second, "the dead manager taken out", func() bool { return ms[0].nodes()["m5"].GetManager() == nil })
		n := ms[0].nodes()["m5"].GetNode()
		if n.GetRole() != asWorker || n.GetSpec().GetRole() != asWorker || !strings.Contains(n.GetRoleReason(), "had not heard it") {
			t.Errorf("its node is %v, to be %v: %q; want a worker and why", n.GetRole(), n.GetSpec().GetRole(), n.GetRoleReason())
		}

		ms[3].kill() // 3 of 4 are heard: a quorum, which taking the other dead one out makes safer
		c.until(allowed+10*time.Second, "the second one taken out", func() bool { return ms[0].nodes()["m4"].GetManager() == nil })
		ms[2].kill() // 2 of 3 are heard: nobody else is taken out
		c.throughout(allowed+20*time.Second, "the third one a member", func() bool { return ms[0].nodes()["m3"].GetManager() != nil })
		if _, err := ms[0].create(5*time.Second, replicated("two-of-three", 1)); err != nil {
			t.Errorf("a write with two of three managers: %v", err)
		}

		c.net.setDark(gone.addr, false)
		c.until(time.Minute, "the returned one a ready worker without a manager side", func() bool {
			v := ms[0].nodes()["m5"]
			return v.GetNode().GetStatus().GetState() == ready && v.GetManager() == nil && gone.nodesIfManager() == nil
		})
		c.throughout(20*time.Second, "the returned one a worker", func() bool {
			return ms[0].nodes()["m5"].GetNode().GetRole() == asWorker && gone.nodesIfManager() == nil
		})
		ms[2].start()
		if err := ms[0].update(gone, asManager, 0); err != nil {
			t.Fatalf("promote it again: %v", err)
		}
		c.until(time.Minute, "it a voter again", func() bool { return ms[0].nodes()["m5"].GetManager().GetVoter() })
		v := ms[0].nodes()["m5"]
		if v.GetManager().GetRaftId() == raft || v.GetNode().GetRoleReason() != "" {
			t.Errorf("promoted as member %x (was %x), reason %q; want another member and no reason left",
				v.GetManager().GetRaftId(), raft, v.GetNode().GetRoleReason())
		}
	})
}

func TestOfThreeManagersNoneIsTakenOut(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, afterDead(time.Minute))
		ms[0].ready(3)
		ms[2].kill()
		c.throughout(2*time.Minute, "the dead one a member", func() bool { return ms[0].nodes()["m3"].GetManager() != nil })
		ms[2].start()
		c.until(20*time.Second, "it a voter that is heard", func() bool {
			m := ms[0].nodes()["m3"].GetManager()
			return m.GetVoter() && m.GetReachability() == controlv1.ManagerStatus_REACHABILITY_REACHABLE
		})
	})
}
