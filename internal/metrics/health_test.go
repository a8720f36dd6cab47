package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadySaysInWordsWhatIsNot(t *testing.T) {
	t.Parallel()
	leader := Condition{State: "active", Session: true, Member: true, Running: true, Leader: true, InContact: true}
	with := func(change func(*Condition)) Condition { c := leader; change(&c); return c }
	for _, tt := range []struct {
		name  string
		c     Condition
		wrong string // the check that fails; none if empty
		why   string
	}{
		{"a manager in contact", leader, "", ""},
		{"a worker with a session", Condition{State: "active", Session: true}, "", ""},
		{"in no swarm", Condition{State: "inactive", Session: true}, "swarm", "ctl swarm init"},
		{"refused by the managers", with(func(c *Condition) { c.State, c.Fault = "error", "node x was removed" }), "node", "node x was removed"},
		{"no session", with(func(c *Condition) { c.Session = false }), "session", "no manager serves"},
		{"no leader", with(func(c *Condition) { c.Leader, c.InContact = false, false }), "quorum", "knows no leader"},
		{"silence", with(func(c *Condition) { c.InContact = false }), "quorum", "does not hear the quorum"},
		{"a full disk", with(func(c *Condition) { c.Unwritable, c.InContact = "no space left", false }), "quorum", "no space left"},
		{"a manager side that does not start", with(func(c *Condition) { c.Running = false }), "quorum", "cannot start"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, check := range tt.c.ready() {
				if check.OK != (check.Name != tt.wrong) || check.OK != (check.Why == "") {
					t.Errorf("check %+v, want only %q to fail", check, tt.wrong)
				}
				if check.Name == tt.wrong && !strings.Contains(check.Why, tt.why) {
					t.Errorf("%s: %q does not say %q", check.Name, check.Why, tt.why)
				}
			}
		})
	}
}

func TestALoopThatStandsStillIsNoLife(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for age, want := range map[time.Duration]bool{0: true, 9 * time.Second: true, 11 * time.Second: false} {
		c := Condition{Ticked: now.Add(-age)}
		ok := true
		for _, check := range c.alive(now) {
			ok = ok && check.OK
		}
		if ok != want {
			t.Errorf("ticked %v ago: alive %v, want %v", age, ok, want)
		}
	}
}

func TestADaemonThatIsStuckIsSaidToBe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		stuck := make(chan struct{})
		s := New(Config{Look: full, Condition: func() Condition { looks.Add(1); <-stuck; return Condition{} }})
		for range 3 {
			w := httptest.NewRecorder()
			s.pages().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/healthz", nil))
			var v verdict
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 503 || v.OK {
				t.Errorf("%d %s (%v), want 503 and not ok", w.Code, w.Body, err)
			}
		}
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks are stuck, want 1 however many ask", n)
		}
		close(stuck)
		synctest.Wait()
		if _, ok := s.look(t.Context()); !ok {
			t.Error("it is not seen that the daemon goes on")
		}
	})
}
