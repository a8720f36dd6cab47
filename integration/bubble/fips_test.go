package bubble

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// again starts a host's daemon anew, in FIPS 140-3 mode or not as far as it says.
func (h *host) again(fips bool) {
	h.c.t.Helper()
	h.shutdown()
	h.fips = fips
	h.start()
}

// refusedForFIPS fails unless err says what is missing and what to do.
func refusedForFIPS(t *testing.T, what string, err error) {
	t.Helper()
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "FIPS 140-3 mode") || rpc.HintOf(err) != rpc.FIPSHint {
		t.Errorf("%s: %v (hint %q), want a refusal that says what to do", what, err, rpc.HintOf(err))
	}
}

func (h *host) initFIPS() error {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.local().Init(ctx, &localv1.InitRequest{AdvertiseAddr: h.addr, ListenAddr: h.addr, Fips: true})
	if err == nil {
		h.id = mustID(h.c.t, resp.GetNode())
	}
	return err
}

// TestASwarmThatAsksForFIPSModeHasNoNodeWithoutIt: founder, joiner, manager and who
// was in it and is started without.
func TestASwarmThatAsksForFIPSModeHasNoNodeWithoutIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m, w, m2 := c.host("m"), c.host("w"), c.host("m2")
		refusedForFIPS(t, "founded without", m.initFIPS())
		if s, _ := m.says(); s != localv1.State_STATE_INACTIVE {
			t.Errorf("refused, it is %v", s)
		}
		m.again(true)
		if err := m.initFIPS(); err != nil {
			t.Fatal(err)
		}
		ctx, stop := c.within(time.Hour)
		defer stop()
		token, err := m.control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asWorker})
		if err != nil || !strings.HasPrefix(token.GetToken(), "SWMTKN-2-1-") {
			t.Fatalf("the token is of another kind, %v", err)
		}
		_, err = w.ask(token.GetToken(), m)
		refusedForFIPS(t, "by the token", err)
		_, err = w.ask(strings.Replace(token.GetToken(), "-2-1-", "-1-", 1), m)
		refusedForFIPS(t, "by the manager", err)
		if n := len(m.nodes()); n != 1 {
			t.Errorf("there are %d nodes", n)
		}
		w.again(true)
		m2.again(true)
		w.join(m, asWorker)
		m2.join(m, asManager)
		m.ready(3)
		c.until(10*time.Second, "the records saying so", func() bool {
			nodes := m.nodes()
			return nodes["w"].GetNode().GetDescription().GetFips() && nodes["m2"].GetNode().GetDescription().GetFips()
		})
		if i := w.info(); !i.GetFips() || !i.GetFipsRequired() {
			t.Errorf("the worker's own word is %v", i)
		}
		w.again(false)
		c.until(10*time.Second, "the worker refusing to live", func() bool {
			s, words := w.says()
			return s == localv1.State_STATE_ERROR && strings.Contains(words, "asks for FIPS 140-3 mode")
		})
		refusedForFIPS(t, "founding over it", w.initFIPS())
		c.until(3*lease+time.Minute, "the worker down", func() bool { return m.state(w) == down })
		w.again(true)
		m.ready(3)
		m2.again(false)
		c.until(10*time.Second, "the manager refusing to live", func() bool {
			s, _ := m2.says()
			return s == localv1.State_STATE_ERROR
		})
		_, err = m2.local().Leave(ctx, &localv1.LeaveRequest{})
		refusedForFIPS(t, "a manager leaving without a word to the others", err)
		m2.again(true)
		m.ready(3)
	})
}

// TestABackupOfASwarmWithFIPSModeIsRestoredInThatModeOnly.
func TestABackupOfASwarmWithFIPSModeIsRestoredInThatModeOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.host("m")
		m.again(true)
		if err := m.initFIPS(); err != nil {
			t.Fatal(err)
		}
		data := m.mustBackup()
		m.kill()
		r := c.host("r")
		_, err := r.restore(data, true)
		refusedForFIPS(t, "restored without", err)
		r.again(true)
		r.mustRestore(data, true)
		r.again(false)
		c.until(10*time.Second, "the restored manager refusing to live", func() bool {
			s, _ := r.says()
			return s == localv1.State_STATE_ERROR
		})
	})
}

// TestWhoIsInFIPSModeMayBeInASwarmThatDoesNotAskForIt.
func TestWhoIsInFIPSModeMayBeInASwarmThatDoesNotAskForIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m, w := c.managers(1, nil)[0], c.host("w")
		w.again(true)
		w.join(m, asWorker)
		w.again(false)
		c.until(time.Minute, "the worker ready", func() bool { return m.state(w) == modelv1.NodeState_NODE_STATE_READY })
	})
}
