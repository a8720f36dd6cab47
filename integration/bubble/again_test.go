package bubble

import (
	"testing"
	"time"

	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// TestANodeThatLeftAndCameBackOutlivesItsRestart guards what is sealed on its
// disk: the second identity must be readable by the next process.
func TestANodeThatLeftAndCameBackOutlivesItsRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		w := c.workers(1, m)[0]
		ctx, stop := c.within(30 * time.Second)
		defer stop()
		if _, err := w.local().Leave(ctx, &localv1.LeaveRequest{}); err != nil {
			t.Fatal(err)
		}
		w.join(m, asWorker)
		w.shutdown()
		w.start()
		c.until(10*time.Second, "the node ready again with its second identity", func() bool {
			resp, err := w.local().Info(ctx, &localv1.InfoRequest{})
			return err == nil && resp.GetState() == localv1.State_STATE_ACTIVE
		})

		if _, err := m.local().Leave(ctx, &localv1.LeaveRequest{Force: true}); err != nil {
			t.Fatal(err)
		}
		m.init(nil)
		m.shutdown()
		m.start()
		c.until(10*time.Second, "the founder of a second swarm leading it again", func() bool {
			resp, err := m.local().Info(ctx, &localv1.InfoRequest{})
			return err == nil && resp.GetState() == localv1.State_STATE_ACTIVE && resp.GetLeader()
		})
	})
}
