package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// watched calls do at each step for d of the test's time.
func watched(d, step time.Duration, do func()) {
	for began := time.Now(); time.Since(began) < d; time.Sleep(step) {
		synctest.Wait()
		do()
	}
}

func TestAStreamOfAnOldCertificateIsReplacedWithoutAGap(t *testing.T) {
	onStage(t, 3, func(t *testing.T, s *stage) {
		for _, m := range s.managers {
			m.set(func() { m.noCommit = true })
		}
		s.start(t)
		task := id.New()
		s.Report(task, state(taskstate.Running))
		m := s.current(t)
		for n := 2; n <= 4; n++ {
			s.Renewed()
			overlapped := false
			watched(time.Second, time.Millisecond, func() {
				if st := s.Status(); st.Manager != m.entry || !st.Confirmed {
					t.Fatalf("its session is with %v, confirmed %v; want it with the same manager and confirmed throughout", st.Manager, st.Confirmed)
				}
				overlapped = overlapped || m.connected() == 2
			})
			opens := m.openings()
			if len(opens) != n || opens[n-1].GetSession() <= opens[n-2].GetSession() {
				t.Errorf("after %d renewals sessions %v, want one more each, with a greater number", n-1, opens)
			}
			if m.connected() != 1 {
				t.Errorf("%d sessions are open a second after a renewal, want the new one", m.connected())
			}
		}
		again := 0
		for _, msg := range m.messages() {
			if msg.GetOpen() != nil && len(msg.GetReports().GetReports()) == 1 {
				again++
			}
		}
		if again != 3 {
			t.Errorf("%d sessions began with the state that is not committed, want the three new ones", again)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(m.openings()); n != 4 {
			t.Errorf("%d sessions were opened, want no other without a renewal", n)
		}
	})
}

func TestTheOldStreamGoesOnUntilTheNewOneCounts(t *testing.T) {
	for name, tt := range map[string]struct{ fail, mend func(*manager) }{
		"no connection": {func(m *manager) { m.dark = true }, func(m *manager) { m.dark = false }},
		"no welcome": {
			func(m *manager) { m.end = &dispatchv1.End{Reason: dispatchv1.End_REASON_BEHIND} },
			func(m *manager) { m.end = nil },
		},
		"no beat counted": {func(m *manager) { m.upTo = 1 }, func(m *manager) { m.upTo = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, 2, func(t *testing.T, s *stage) {
				s.start(t)
				m := s.current(t)
				m.set(func() { tt.fail(m) })
				s.Renewed()
				began := time.Now()
				watched(time.Minute, 20*time.Millisecond, func() {
					if st := s.Status(); st.Manager != m.entry || !st.Confirmed {
						t.Fatalf("after %v its session is with %v, confirmed %v; want the old one as it was", time.Since(began), st.Manager, st.Confirmed)
					}
				})
				if n := len(m.openings()); name != "no connection" && (n < 5 || n > 60) {
					t.Errorf("another session was tried %d times in a minute, want some and not many", n-1)
				}
				m.set(func() { tt.mend(m) })
				within(t, longestPause+longestPatience+time.Second, "the new session alone", func() bool {
					s.Client.mu.Lock()
					fresh := s.main.certificate == s.renewals
					s.Client.mu.Unlock()
					return fresh && m.connected() == 1 && s.Status().Confirmed
				})
			})
		})
	}
}

func TestWhatComesOnAStreamThatWasLeftIsNotObeyed(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		ctx, left := context.WithCancel(t.Context())
		l := s.newLink(s.managers[0].entry, left)
		order := &dispatchv1.SessionResponse{Assignments: &dispatchv1.Assignments{Index: 5, Complete: true}, Wish: &dispatchv1.Wish{}}
		if err := l.take(ctx, order); err != nil || len(s.hands.did()) != 1 {
			t.Errorf("%v, %d messages obeyed; want the one of a stream that is in charge", err, len(s.hands.did()))
		}
		left()
		if err := l.take(ctx, order); !errors.Is(err, context.Canceled) || len(s.hands.did()) != 1 || len(s.wished()) != 1 {
			t.Errorf("%v, %d messages obeyed; want none of a stream that was left", err, len(s.hands.did()))
		}
	})
}
