package bubble

import (
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// set replaces the cluster's settings.
func (h *host) set(spec *modelv1.ClusterSpec) {
	h.c.t.Helper()
	ctx, stop := h.c.within(5 * time.Second)
	defer stop()
	if _, err := h.control().UpdateCluster(ctx, &controlv1.UpdateClusterRequest{RequestId: requestID(), Spec: spec}); err != nil {
		h.c.t.Fatalf("update the cluster's settings: %v", err)
	}
}

func TestOpenSessionsFollowANewPulse(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(4, ms[0])
		ms[0].ready(7)
		quick := &modelv1.ClusterSpec{HeartbeatPeriod: int64(500 * time.Millisecond), Lease: int64(1500 * time.Millisecond)}
		ms[1].set(quick)
		c.throughout(30*time.Second, "every node ready", func() bool {
			for _, h := range c.hosts {
				if ms[0].state(h) != ready {
					return false
				}
			}
			return true
		})
		c.net.setDark(ws[0].addr, true)
		if took := c.until(lease, "the lost worker down", func() bool { return ms[0].state(ws[0]) == down }); took > 2500*time.Millisecond {
			t.Errorf("it was down after %v, want the new lease", took)
		}
	})
}
