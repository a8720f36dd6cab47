package bubble

import (
	"strings"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// lateWorker is a manager and a worker that was off for an hour, six lives of its
// certificate, under the given settings. It was started again just now.
func (c *cluster) lateWorker(spec *modelv1.ClusterSpec) (m, w *host) {
	c.t.Helper()
	spec.CertExpiry = int64(10 * time.Minute)
	m = c.managers(1, spec)[0]
	w = c.workers(1, m)[0]
	m.ready(2)
	w.kill()
	time.Sleep(time.Hour)
	w.start()
	return m, w
}

// pending is how many nodes wait to be accepted.
func (h *host) pending() int {
	resp, err := h.control().ListNodes(h.c.t.Context(), &controlv1.ListNodesRequest{
		Filter: &controlv1.Filter{Memberships: []modelv1.Membership{modelv1.Membership_MEMBERSHIP_PENDING}},
	})
	if err != nil {
		h.c.t.Fatal(err)
	}
	return len(resp.GetNodes())
}

// says is what the node's own info says is wrong.
func (h *host) says() (localv1.State, string) {
	i := h.info()
	return i.GetState(), i.GetError()
}

func TestANodeWhoseCertificateExpiredComesBackByItself(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m, w := c.lateWorker(&modelv1.ClusterSpec{})
		c.until(20*time.Second, "the worker is back", func() bool { return m.state(w) == ready })
		if who := identityOf(t, w); who.Node != w.id || who.Generation < 2 || who.NotAfter.Before(time.Now()) {
			t.Errorf("it is %v, want the same node with a new certificate", who)
		}
	})
}

func TestANodeWhoseCertificateExpiredWaitsToBeAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m, w := c.lateWorker(&modelv1.ClusterSpec{ExpiredRenewal: modelv1.ExpiredRenewal_EXPIRED_RENEWAL_APPROVE})
		c.until(20*time.Second, "the worker waits", func() bool { return m.pending() == 1 })
		c.until(20*time.Second, "it says so itself", func() bool {
			state, words := w.says()
			return state == localv1.State_STATE_PENDING && strings.Contains(words, "waits for an operator to accept it; its key is")
		})
		index := m.info().GetApplied()
		time.Sleep(time.Minute)
		if m.state(w) == ready || identityOf(t, w).Generation != 1 {
			t.Error("it came in and nobody accepted it")
		}
		// Its refused sessions are in the audit trail, some at a time; its questions are not.
		if now := m.info().GetApplied(); now > index+10 {
			t.Errorf("%d entries were written in a minute while it asked again and again", now-index)
		}
		if _, err := m.control().AcceptNode(t.Context(), &controlv1.AcceptNodeRequest{RequestId: requestID(), Ref: w.id.String()}); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, "the worker is back", func() bool { return m.state(w) == ready })
		if n := m.pending(); n != 0 {
			t.Errorf("%d nodes wait still", n)
		}
	})
}

func TestANodeWhoseCertificateExpiredStaysOut(t *testing.T) {
	for name, spec := range map[string]*modelv1.ClusterSpec{
		"lets no node renew after that":                   {ExpiredRenewal: modelv1.ExpiredRenewal_EXPIRED_RENEWAL_NEVER},
		"the swarm lets nodes renew for 30m0s after that": {ExpiredGrace: int64(30 * time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				m, w := c.lateWorker(spec)
				c.until(20*time.Second, "it says why", func() bool {
					state, words := w.says()
					return state == localv1.State_STATE_ERROR && strings.Contains(words, name)
				})
				if m.state(w) == ready {
					t.Error("it is back")
				}
				// The operator thinks better of it.
				resp, err := m.control().GetCluster(t.Context(), &controlv1.GetClusterRequest{})
				if err != nil {
					t.Fatal(err)
				}
				spec := resp.GetCluster().GetSpec()
				spec.ExpiredRenewal, spec.ExpiredGrace = modelv1.ExpiredRenewal_EXPIRED_RENEWAL_AUTO, int64(2*time.Hour)
				if _, err := m.control().UpdateCluster(t.Context(), &controlv1.UpdateClusterRequest{RequestId: requestID(), Spec: spec}); err != nil {
					t.Fatal(err)
				}
				c.until(90*time.Second, "the worker is back", func() bool { return m.state(w) == ready })
			})
		})
	}
}

// TestARevokedNodeIsOutAtOnceAndComesBackWhenItIsAccepted: its certificate is good
// for months.
func TestARevokedNodeIsOutAtOnceAndComesBackWhenItIsAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		w := c.workers(1, ms[0])[0]
		ms[0].ready(4)
		began := time.Now()
		revoke := func(ref string) error {
			_, err := ms[0].control().UpdateNode(t.Context(), &controlv1.UpdateNodeRequest{RequestId: requestID(), Ref: ref, Revoke: true})
			return err
		}
		if err := revoke(ms[1].id.String()); err == nil || !strings.Contains(err.Error(), "must be demoted before its certificates are revoked") {
			t.Errorf("revoking a manager: %v, want refused", err)
		}
		if err := revoke(w.id.String()); err != nil {
			t.Fatal(err)
		}
		c.until(time.Second, "its session was cut", func() bool {
			for _, r := range c.log.since(began, "stream cut") {
				if r.facts["caller"] == "node:"+w.id.String() {
					return true
				}
			}
			return false
		})
		c.until(30*time.Second, "it waits", func() bool { return ms[2].pending() == 1 })
		time.Sleep(30 * time.Second)
		if n := c.log.sessionsOf(w, began.Add(revokedIn)); n > 0 || ms[0].state(w) == ready {
			t.Errorf("it opened %d sessions", n)
		}
		if _, err := ms[0].control().AcceptNode(t.Context(), &controlv1.AcceptNodeRequest{RequestId: requestID(), Ref: w.id.String()}); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, "it is back", func() bool { return ms[0].state(w) == ready })
		if who := identityOf(t, w); who.Node != w.id || who.Generation != 2 {
			t.Errorf("it is %v", who)
		}
	})
}
