package bubble

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// condemn declares a manager compromised.
func (h *host) condemn(who *host, remove bool) *controlv1.CondemnNodeResponse {
	h.c.t.Helper()
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	resp, err := h.control().CondemnNode(ctx, &controlv1.CondemnNodeRequest{RequestId: requestID(), Ref: who.name, Remove: remove})
	if err != nil {
		h.c.t.Fatalf("condemn %s at %s: %v", who.name, h.name, err)
	}
	return resp
}

// loseLeader kills the one of the managers that leads, and has it come back. It opens
// with the key of when it was killed, or with the next one, if that had reached it.
func (c *cluster) loseLeader(ms []*host) {
	c.t.Helper()
	for i, m := range ms {
		if !m.info().GetLeader() {
			continue
		}
		key := m.unlockKey().GetUnlockKey()
		m.kill()
		time.Sleep(3 * time.Second)
		m.start()
		if m.unlock(key) != nil {
			m.mustUnlock(ms[(i+1)%len(ms)].unlockKey().GetUnlockKey())
		}
		return
	}
	c.t.Error("none of the managers leads")
}

// settled reports whether a condemnation has ended, and none is under way.
func (h *host) settled() bool {
	v := h.root()
	return v != nil && v.GetCondemnation() == nil && v.GetCondemned() != nil
}

// recordedUnder fails unless every node's certificate is of the one root there is.
// Managers that are locked show their own to nobody.
func (c *cluster) recordedUnder(via *host) {
	c.t.Helper()
	root := ca.RootDigest(via.root().GetCertificates()[0])
	for name, n := range via.nodes() {
		if string(n.GetNode().GetCurrent().GetIssuer()) != string(root[:]) {
			c.t.Errorf("%s has a certificate of another root", name)
		}
	}
}

// secrets are what a manager of the swarm knows, as far as it is shown.
func (h *host) secrets() map[string]string {
	return map[string]string{
		"root": string(h.root().GetCertificates()[0]), "worker token": h.standing(), "unlock key": h.unlockKey().GetUnlockKey(),
	}
}

// TestWhatACompromisedManagerKnewIsWorthNothing: it leads, it is asked itself or
// another is, it is there or dark, and whoever leads after it is killed, at moments
// that lie in every step. Every key becomes another, in an order in which it can read
// none of them.
func TestWhatACompromisedManagerKnewIsWorthNothing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		remove bool
		dark   bool
		kill   time.Duration // when the leader of then is killed; 0: never
	}{
		{name: "demoted"},
		{name: "removed", remove: true},
		{name: "removed and dark", remove: true, dark: true},
		{name: "the next leader dies at once", remove: true, kill: 300 * time.Millisecond},
		{name: "the next leader dies while the data key is replaced", remove: true, kill: 1500 * time.Millisecond},
		{name: "the next leader dies while the root is rotated", remove: true, kill: 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(4, nil)
				w := c.workers(1, ms[0])[0]
				ms[0].ready(5)
				bad, good := ms[0], ms[1:]   // who founded the swarm leads
				thief, _ := bad.credential() // while it is not locked
				bad.autolock(true)
				before := bad.secrets()
				made, _ := bad.token(&controlv1.CreateTokenRequest{Uses: 5})
				asked := bad
				if tt.dark {
					c.net.setDark(bad.addr, true)
					asked = good[0]
					c.until(time.Minute, "another leading", func() bool { return asked.record() != nil })
				}
				asked.condemn(bad, tt.remove)
				ctx, stop := c.within(10 * time.Second)
				defer stop()
				if _, err := good[1].control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asManager}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "m1 may be compromised") {
					t.Errorf("a join token while it lasts: %v", err)
				}
				if time.Sleep(tt.kill); tt.kill > 0 {
					c.loseLeader(good)
				}
				c.until(12*time.Minute, "its end", func() bool { return good[0].settled() })
				for what, now := range good[0].secrets() {
					if now == before[what] {
						t.Errorf("the %s is the one of before", what)
					}
				}
				for _, token := range []string{before["worker token"], made} {
					late := c.host("late" + token[len(token)-3:])
					if _, err := late.ask(token, good[1]); err == nil {
						t.Error("a token from before lets a node in")
					}
				}
				c.until(time.Minute, "the data key being another everywhere", func() bool {
					active := good[0].record().GetDataKey().GetActive()
					return active > 1 && good[0].settledOn(active, 3)
				})
				for _, m := range good {
					if !m.underOnly(good[0].record().GetDataKey().GetActive()) {
						t.Errorf("%s: sealed under %v", m.name, m.boxes())
					}
					if err := c.knock(m, thief); err == nil {
						t.Errorf("%s takes the certificate that it had", m.name)
					}
				}
				c.recordedUnder(good[0])
				c.onlyUnder(good[0].root().GetCertificates()[0], w)
				n := good[0].nodes()[bad.name].GetNode()
				if (n == nil) != tt.remove || n != nil && n.GetRole() != asWorker {
					t.Errorf("the node is %v", n)
				}
				if left := good[0].root().GetCondemned().GetLeftBehind(); left > 0 {
					t.Errorf("left behind: %v", good[0].root().GetCondemned().GetStragglers())
				}
				good[0].standing()
				late := c.host("new")
				late.join(good[0], asWorker)
			})
		})
	}
}

// TestTwoManagersThatMayBeCompromised: the second is found while the first is dealt
// with, and has seen the root and the unlock key that took the place of the first
// ones.
func TestTwoManagersThatMayBeCompromised(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(5, &modelv1.ClusterSpec{Autolock: true})
		w := c.workers(1, ms[0])[0]
		ms[0].ready(6)
		w.kill() // the rotation waits for it
		first := ms[0].secrets()
		ms[0].condemn(ms[3], true)
		c.until(2*time.Minute, "the root being rotated", func() bool { return ms[0].inPhase(inRenew) })
		second := map[string]string{"root": string(ms[0].root().GetRotation().GetTarget()), "unlock key": ms[0].unlockKey().GetUnlockKey()}
		if second["unlock key"] == first["unlock key"] {
			t.Error("the unlock key is the first one still")
		}
		ms[1].condemn(ms[4], true)
		if ms[1].condemn(ms[4], true).GetJoined() != true {
			t.Error("asked for once more, it was not joined")
		}
		w.start()
		c.until(15*time.Minute, "its end", func() bool { return ms[0].settled() })
		now := ms[0].secrets()
		for _, before := range []map[string]string{first, second} {
			for what, v := range before {
				if v == now[what] {
					t.Errorf("the %s is one of before", what)
				}
			}
		}
		if n := len(ms[0].root().GetCondemned().GetNodes()); n != 2 || len(ms[0].nodes()) != 4 {
			t.Errorf("it ended for %d nodes; %d are in the swarm", n, len(ms[0].nodes()))
		}
		c.recordedUnder(ms[0])
		c.onlyUnder(ms[0].root().GetCertificates()[0], w)
	})
}
