package bubble

import (
	"slices"
	"testing"
	"time"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestCertificatesAreRenewedForHoursAndNobodyIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		const life = 10 * time.Minute
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(life), ManagerCertExpiry: int64(life)})[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		m.ready(3)
		before := ids(m.tasks("web", every))
		blips := 0
		for began := time.Now(); time.Since(began) < 2*time.Hour; time.Sleep(beat) {
			for name, v := range m.nodes() {
				if s := v.GetNode().GetStatus().GetState(); s != ready {
					blips++
					t.Logf("after %v: %s is %v: %s", time.Since(began), name, s, v.GetNode().GetStatus().GetMessage())
				}
			}
		}
		if blips > 0 {
			t.Errorf("a node was not ready %d times", blips)
		}
		if after := ids(m.tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v, want %v as ever", after, before)
		}
		for _, h := range append(ws, m) {
			me, _ := h.identity()
			cred, err := me.Credential()
			if err != nil {
				t.Fatal(err)
			}
			if g := cred.Identity.Generation; g < 2*6 || cred.Identity.NotAfter.Before(time.Now()) {
				t.Errorf("%s has generation %d until %v", h.name, g, cred.Identity.NotAfter)
			}
		}
		for _, h := range append(ws, m) {
			t.Logf("%s opened %d sessions", h.name, len(slices.DeleteFunc(c.log.since(c.log.began, "session opened"), func(r record) bool { return r.host != h.name })))
		}
	})
}
