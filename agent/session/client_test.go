package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func state(s modelv1.TaskState) *modelv1.TaskStatus { return &modelv1.TaskStatus{State: s} }

func TestASessionIsOpenedAtOnceAndConfirmed(t *testing.T) {
	onStage(t, 3, func(t *testing.T, s *stage) {
		s.Describe(&modelv1.NodeDescription{Hostname: "h"})
		s.start(t)
		m := s.current(t)
		if !s.Status().Confirmed {
			t.Error("the session is not confirmed")
		}
		if got := m.messages()[0]; got.GetOpen().GetSession() != 1 || got.GetBeat() != 1 || got.GetDescription().GetHostname() != "h" {
			t.Errorf("first message %v, want open of session 1, beat 1 and the description", got)
		}
		s.Describe(&modelv1.NodeDescription{Hostname: "g"})
		synctest.Wait()
		if got := m.messages()[len(m.messages())-1].GetDescription().GetHostname(); got != "g" {
			t.Errorf("description %q was sent last, want g", got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := m.connected(); n != 1 || !s.Status().Confirmed || len(m.openings()) != 1 {
			t.Errorf("after five minutes %d sessions, %d opened, confirmed %v; want the first, confirmed", n, len(m.openings()), s.Status().Confirmed)
		}
	})
}

// beatStream is the sending half of a stream.
type beatStream struct {
	stream
	sent func(*dispatchv1.SessionRequest)
}

func (s beatStream) Send(m *dispatchv1.SessionRequest) error {
	s.sent(m)
	return nil
}

// TestABeatFollowsTheAnswerToTheOneBefore by the period, so that nodes which a manager
// answers together beat together; without an answer it comes all the same.
func TestABeatFollowsTheAnswerToTheOneBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		at := func() time.Duration { return time.Since(began) }
		l := &link{client: &Client{events: make(chan event, 100), outbox: newOutbox()}, pulse: newPulse(),
			paced: make(chan struct{}, 1), wake: make(chan struct{}, 1), farewell: make(chan modelv1.Farewell)}
		l.pulse.set(2*time.Second, 10*time.Second, time.Now())
		var beats []time.Duration
		s := beatStream{sent: func(m *dispatchv1.SessionRequest) {
			beats = append(beats, at())
			if n := m.GetBeat(); n <= 3 {
				time.AfterFunc(90*time.Millisecond, func() {
					if l.pulse.confirm(n) && l.pulse.settled() {
						l.anew()
					}
				})
			}
		}}
		ctx, stop := context.WithTimeout(t.Context(), 12*time.Second)
		defer stop()
		if err := l.send(ctx, s, &dispatchv1.Open{}); err != nil {
			t.Fatal(err)
		}
		ms := time.Millisecond
		want := []time.Duration{0, 2090 * ms, 4180 * ms, 6270 * ms, 8270 * ms, 10270 * ms}
		if !slices.Equal(beats, want) {
			t.Errorf("beats at %v, want %v", beats, want)
		}
	})
}

func TestAKilledManagerIsReplacedAtOnce(t *testing.T) {
	onStage(t, 3, func(t *testing.T, s *stage) {
		s.start(t)
		for range 2 {
			was := s.current(t)
			was.kill()
			took := within(t, time.Second, "another session", func() bool {
				st := s.Status()
				return st.Manager != nil && st.Manager != was.entry && st.Confirmed
			})
			if took > 200*time.Millisecond {
				t.Errorf("took %v", took)
			}
			if now := s.current(t); now.openings()[0].GetSession() <= was.openings()[0].GetSession() {
				t.Errorf("session %d follows %d, want it greater", now.openings()[0].GetSession(), was.openings()[0].GetSession())
			}
		}
	})
}

func TestADarkManagerCostsItsPatienceOnly(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.managers[0].set(func() { s.managers[0].dark = true })
		s.start(t)
		within(t, firstPatience+100*time.Millisecond, "a session with the other", func() bool { return s.managers[1].connected() == 1 })
	})
}

func TestAManagerThatIsSlowIsGivenTheTimeItNeeds(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		s.managers[0].set(func() { s.managers[0].slow = 20 * time.Second })
		s.start(t)
		within(t, 2*time.Minute, "a session", func() bool { return s.Status().Confirmed })
	})
}

func TestAllManagersMayBeGone(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.start(t)
		for _, m := range s.managers {
			m.kill()
		}
		time.Sleep(time.Minute)
		s.managers[1].start(t)
		within(t, longestPause+firstPatience, "a session", func() bool { return s.Status().Confirmed })
	})
}

// TestWhatMendsItselfAtTheStartIsNoNews: a founder's own manager is not elected
// when its agent first asks.
func TestWhatMendsItselfAtTheStartIsNoNews(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		m := s.managers[0]
		away := errgrpc.ToGRPC(fmt.Errorf("this manager is out of contact: %w", errdefs.ErrUnavailable))
		m.set(func() { m.refusal = away })
		s.start(t)
		time.Sleep(3 * firstPause / 2) // one more try at the least
		m.set(func() { m.refusal = nil })
		within(t, time.Second, "a session", func() bool { return s.Status().Confirmed })
		synctest.Wait()
		if log := s.said.String(); strings.Contains(log, "no session") || len(m.openings()) < 2 {
			t.Errorf("%d tries, said:\n%s", len(m.openings()), log)
		}
	})
}

func TestThatNoManagerAnswersIsSaidOnceForEach(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		away := errgrpc.ToGRPC(fmt.Errorf("this manager is out of contact: %w", errdefs.ErrUnavailable))
		for _, m := range s.managers {
			m.set(func() { m.refusal = away })
		}
		s.start(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(s.said.String(), "no session with a manager"); n != 2 {
			t.Errorf("at the start said %d times:\n%s", n, s.said.String())
		}
		for _, m := range s.managers {
			m.set(func() { m.refusal = nil })
		}
		within(t, 5*time.Second, "a session", func() bool { return s.Status().Confirmed })
		synctest.Wait()
		s.said.Reset()
		for _, m := range s.managers {
			m.set(func() { m.refusal = away })
		}
		for _, m := range s.managers {
			m.kill()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(s.said.String(), "no session with a manager"); n < 1 || n > 3 {
			t.Errorf("after a loss said %d times:\n%s", n, s.said.String())
		}
	})
}

func TestAClientWithoutASessionSaysSinceWhenAndWhy(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.start(t)
		s.current(t)
		time.Sleep(time.Minute)
		began := time.Now()
		for _, m := range s.managers {
			m.kill()
		}
		synctest.Wait()
		if alone := s.Status().Alone; alone.Err != nil {
			t.Errorf("before others were tried it says %v", alone.Err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		alone := s.Status().Alone
		if alone.Err == nil || !alone.Since.Equal(began) || !strings.Contains(alone.Err.Error(), s.managers[0].entry.GetAddress()) &&
			!strings.Contains(alone.Err.Error(), s.managers[1].entry.GetAddress()) {
			t.Errorf("it says %v since %v, want the address of a manager and %v", alone.Err, alone.Since, began)
		}
		s.managers[0].start(t)
		within(t, longestPause+firstPatience, "a session", func() bool { return s.Status().Confirmed })
		if alone := s.Status().Alone; alone.Err != nil {
			t.Errorf("with a session it says %v", alone.Err)
		}
	})
}

func TestStatesAreSentAgainUntilTheyAreCommitted(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		for _, m := range s.managers {
			m.set(func() { m.noCommit = true })
		}
		s.start(t)
		a, b := id.New(), id.New()
		s.Report(a, state(taskstate.Running))
		s.Report(b, state(taskstate.Running))
		synctest.Wait()
		s.Report(b, state(taskstate.Failed))
		first := s.current(t)
		if got := first.reported(); got[a] != taskstate.Running || got[b] != taskstate.Failed {
			t.Fatalf("reported %v", got)
		}
		first.kill()
		within(t, time.Second, "another session", func() bool { return s.Status().Manager != nil && s.Status().Manager != first.entry })
		second := s.current(t)
		again := second.messages()[0].GetReports()
		if len(again.GetReports()) != 2 || second.messages()[0].GetOpen() == nil {
			t.Fatalf("the new session began with %v, want open and both states", second.messages()[0])
		}
		if n := s.Status().Waiting; n != 2 || s.hands.acknowledged(a) != 0 || s.hands.acknowledged(b) != 0 {
			t.Errorf("%d states wait, want both, and none acknowledged", n)
		}
		second.set(func() { second.noCommit = false })
		s.Report(a, state(taskstate.Complete)) // its acknowledgement covers what came before
		synctest.Wait()
		if s.Status().Waiting != 0 || s.hands.acknowledged(a) != taskstate.Complete || s.hands.acknowledged(b) != taskstate.Failed {
			t.Errorf("%d states wait, acknowledged %v; want none, and the newest of both", s.Status().Waiting, s.hands.acknowledged(a))
		}
	})
}

func TestManyStatesGoInFewMessages(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		const n = 3*batchReports + 1
		for range n {
			s.Report(id.New(), state(taskstate.Running))
		}
		s.start(t)
		m := s.current(t)
		if got := len(m.reported()); got != n || len(m.messages()) > 5 {
			t.Errorf("%d states in %d messages, want %d in 4 or 5", got, len(m.messages()), n)
		}
		if s.Status().Waiting != 0 {
			t.Errorf("%d states wait", s.Status().Waiting)
		}
	})
}

func TestAnotherManagerIsTriedWhileTheLeaderDoesNotConfirm(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.start(t)
		old := s.current(t)
		old.set(func() { old.cutOff = true })
		// A beat goes every 2s and is in doubt after 4s, a third of the lease.
		within(t, 7*time.Second, "the other manager", func() bool { return s.Status().Manager != old.entry && s.Status().Confirmed })
		if n := old.connected(); n != 0 {
			t.Errorf("the old stream is still open")
		}
	})
}

func TestTheOldStreamIsKeptUntilABetterOneIsConfirmed(t *testing.T) {
	onStage(t, 3, func(t *testing.T, s *stage) {
		for _, m := range s.managers {
			m.set(func() { m.cutOff = true })
		}
		s.start(t)
		old := s.current(t)
		time.Sleep(time.Minute)
		if got := s.current(t); got != old || old.connected() != 1 {
			t.Fatalf("the old stream was left for one that is no better")
		}
		old.set(func() { old.cutOff = false })
		time.Sleep(4 * time.Second)
		if got := s.current(t); got != old || !s.Status().Confirmed {
			t.Error("the old stream was confirmed and is not kept")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, m := range s.managers {
			if m != old && m.connected() != 0 {
				t.Error("a second stream stays open after the first was confirmed")
			}
		}
	})
}

func TestAManagerThatEndsTheSessionIsLeft(t *testing.T) {
	for _, reason := range []dispatchv1.End_Reason{
		dispatchv1.End_REASON_STOPPING, dispatchv1.End_REASON_BEHIND,
		dispatchv1.End_REASON_REPLACED, dispatchv1.End_REASON_REVOKED,
	} {
		t.Run(reason.String(), func(t *testing.T) {
			onStage(t, 2, func(t *testing.T, s *stage) {
				s.managers[0].end = &dispatchv1.End{Reason: reason, Words: "because"}
				s.start(t)
				within(t, time.Second, "the other manager", func() bool { return s.Status().Manager == s.managers[1].entry })
				time.Sleep(5 * time.Minute)
				s.managers[1].kill() // so that the first is asked for certain
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := len(s.told()) > 0; got != (reason == dispatchv1.End_REASON_REVOKED) {
					t.Errorf("revoked %q", s.told())
				}
				if n := len(s.managers[0].openings()); n > 90 {
					t.Errorf("asked %d times in a minute", n)
				}
			})
		})
	}
}

func TestARefusedNodeLearnsItAndGoesOnAsking(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		for _, m := range s.managers {
			m.set(func() { m.refusal = errgrpc.ToGRPC(fmt.Errorf("node x was removed: %w", errdefs.ErrPermissionDenied)) })
		}
		s.start(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.told(); len(got) == 0 || !strings.Contains(got[0], "node x was removed") {
			t.Errorf("told %q, want the words of the manager", got)
		}
		s.managers[0].set(func() { s.managers[0].refusal = nil })
		within(t, 5*time.Second, "a session", func() bool { return s.Status().Confirmed })
	})
}

func TestAssignmentsAreObeyedAfterACompleteSet(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		m := s.managers[0]
		m.first = []*dispatchv1.SessionResponse{
			{Assignments: &dispatchv1.Assignments{History: history.Bytes(), Index: 5, Complete: true}},
			{Assignments: &dispatchv1.Assignments{History: history.Bytes(), Index: 6}, Wish: &dispatchv1.Wish{Renew: true}},
		}
		s.start(t)
		if w := s.wished(); len(s.hands.did()) != 2 || len(w) != 1 || !w[0].GetRenew() {
			t.Fatalf("obeyed %v wished %v", s.hands.did(), w)
		}
		m.kill()
		synctest.Wait()
		m.start(t)
		within(t, 3*time.Second, "a session", func() bool { return len(m.openings()) > 1 })
		if got := m.openings()[1]; got.GetIndex() != 6 || string(got.GetHistory()) != string(history.Bytes()) {
			t.Errorf("opened with %v, want index 6 of the history", got)
		}
	})
}

func TestAnIncrementBeforeACompleteSetIsRefused(t *testing.T) {
	onStage(t, 1, func(t *testing.T, s *stage) {
		s.managers[0].first = []*dispatchv1.SessionResponse{
			{Assignments: &dispatchv1.Assignments{History: history.Bytes(), Index: 6}},
		}
		s.start(t)
		if len(s.hands.did()) != 0 {
			t.Errorf("obeyed %v", s.hands.did())
		}
	})
}

func TestAManagerWhoseOrdersAreRefusedIsLeft(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		bad := s.managers[0]
		bad.first = []*dispatchv1.SessionResponse{
			{Assignments: &dispatchv1.Assignments{History: history.Bytes(), Index: 6, Complete: true}},
		}
		s.hands.refuse = errors.New("behind")
		s.start(t)
		within(t, 5*time.Second, "the other manager", func() bool {
			return s.Status().Manager == s.managers[1].entry && bad.connected() == 0
		})
	})
}

func TestANewerListOfManagersIsUsed(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		full := s.hands.managers
		s.hands.managers = &cav1.ManagerList{Index: 1, History: history.Bytes(), Managers: full.Managers[:1]}
		s.managers[0].list = &cav1.ManagerList{Index: 2, History: history.Bytes(), Managers: full.Managers}
		s.start(t)
		s.current(t).kill()
		within(t, time.Second, "the manager of the newer list", func() bool { return s.Status().Manager.GetAddress() == "b" })
	})
}

func TestAManagerThatWasNamedIsDialledUntilAListIsTaken(t *testing.T) {
	onStage(t, 3, func(t *testing.T, s *stage) {
		full := s.hands.managers
		s.hands.managers = &cav1.ManagerList{Index: 1, History: history.Bytes(), Managers: full.Managers[:1]}
		s.named = []*cav1.Manager{full.Managers[0], full.Managers[1]}
		s.managers[0].kill() // the only one of the list
		s.managers[1].list = &cav1.ManagerList{Index: 2, History: history.Bytes(), Managers: full.Managers[2:]}
		s.start(t)
		within(t, time.Second, "the manager that was named", func() bool { return s.Status().Manager.GetAddress() == "b" })
		if got := s.candidates(); len(got) != 1 || got[0].GetAddress() != "c" {
			t.Errorf("dialled from now on: %v, want the list alone", got)
		}
		s.managers[1].kill()
		within(t, time.Second, "the manager of the list", func() bool { return s.Status().Manager.GetAddress() == "c" })
	})
}

func TestAFarewellThatNobodyHeardIsSaidToTheNextManager(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.start(t)
		s.current(t)
		s.managers[0].kill()
		s.managers[1].kill()
		synctest.Wait()
		err := s.Farewell(t.Context(), modelv1.Farewell_FAREWELL_RESTARTING)
		if !errors.Is(err, ErrNoSession) {
			t.Fatalf("farewell without a session: %v, want %v", err, ErrNoSession)
		}
		s.managers[1].start(t)
		for wait := time.After(time.Minute); err != nil; {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-wait:
				t.Fatalf("nobody heard it: %v", err)
			}
			err = s.Farewell(t.Context(), modelv1.Farewell_FAREWELL_RESTARTING)
		}
		if got := s.managers[1].goodbyes(); len(got) != 1 {
			t.Errorf("the manager that came back heard %v, want one farewell", got)
		}
	})
}

func TestAFarewellIsHeardBeforeTheStreamCloses(t *testing.T) {
	onStage(t, 2, func(t *testing.T, s *stage) {
		s.start(t)
		m := s.current(t)
		if err := s.Farewell(t.Context(), modelv1.Farewell_FAREWELL_RESTARTING); err != nil {
			t.Fatal(err)
		}
		if len(m.goodbyes()) != 1 || m.goodbyes()[0] != modelv1.Farewell_FAREWELL_RESTARTING {
			t.Errorf("farewells %v", m.goodbyes())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s.managers[0].connected()+s.managers[1].connected() != 0 {
			t.Error("a session was opened after the farewell")
		}
		if err := s.Farewell(t.Context(), modelv1.Farewell_FAREWELL_LEAVING); !errors.Is(err, ErrNoSession) {
			t.Errorf("a second farewell: %v, want %v", err, ErrNoSession)
		}
	})
}
