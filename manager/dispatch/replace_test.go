package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestANodeIsReadyThroughoutWhileItsSessionIsReplaced(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, follower *manager) {
		for n, at := range []*manager{leader, follower} {
			from := uint64(10 * n)
			old := at.open(ctx, t, 1, opening(from+1))
			old.until("a counted beat", func(m *dispatchv1.SessionResponse) bool { return m.GetBeat() == 1 })
			for next := from + 2; next < from+5; next++ {
				fresh := at.open(ctx, t, 1, opening(next))
				fresh.until("a counted beat", func(m *dispatchv1.SessionResponse) bool { return m.GetBeat() == 1 })
				old.until("the end", func(m *dispatchv1.SessionResponse) bool {
					return m.GetEnd().GetReason() == dispatchv1.End_REASON_REPLACED
				})
				time.Sleep(time.Second)
				old = fresh
			}
			synctest.Wait()
			if len(r.seen) == 0 || r.seen[len(r.seen)-1].GetSession() != from+4 {
				t.Errorf("statuses %v, want session %d the last", r.seen, from+4)
			}
			for _, s := range r.seen {
				if s.GetState() != ready {
					t.Errorf("it was %v in session %d", s.GetState(), s.GetSession())
				}
			}
			old.drop()
			synctest.Wait()
			r.seen = nil
		}
	})
}

// told is what the leader is told of node 1, nil if nothing.
func told(s *sessions) *dispatchv1.Liveness {
	req := s.news(time.Now())
	if req == nil {
		return nil
	}
	return req.GetLiveness()[0]
}

// count is the leader's answer to a beat.
func count(s *sessions, session, beat uint64) {
	s.heard(&dispatchv1.RelayResponse{Accounted: []*dispatchv1.Accounted{{Node: nodeN(1).Bytes(), Session: session, Beat: beat}}})
}

func begun(t *testing.T, s *sessions, counter uint64) *session {
	t.Helper()
	x := &session{node: nodeN(1), boot: []byte("boot"), counter: counter, beat: 1, beatAt: time.Now(), wake: make(chan struct{}, 1)}
	if why := s.begin(x); why != "" {
		t.Fatalf("session %d: %s", counter, why)
	}
	return x
}

func TestASessionThatFailsBeforeItCountsLeavesTheFormerInCharge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		old := begun(t, s, 1)
		told(s)
		count(s, 1, 1)
		for next := uint64(2); next < 5; next++ {
			x := begun(t, s, next)
			s.beat(old, &dispatchv1.SessionRequest{Beat: next}, beatPace, time.Now())
			if v := told(s); v.GetSession() != next || v.GetBeat() != 1 {
				t.Errorf("the leader was told %v, want session %d alone", v, next)
			}
			if old.ended != nil {
				t.Fatalf("the former was ended before session %d counts: %v", next, old.ended)
			}
			if next == 3 { // its successor comes before it has failed
				x = begun(t, s, 30)
				s.finish(x, time.Now())
			} else {
				s.finish(x, time.Now())
			}
			v := told(s)
			if want := max(next, x.counter); v.GetEnded() || v.GetSession() != want || v.GetBeat() != next {
				t.Errorf("after session %d failed the leader was told %v, want beat %d of the former, as session %d", next, v, next, want)
			}
			count(s, v.GetSession(), v.GetBeat())
			if old.confirmed != next {
				t.Errorf("beat %d of the former is confirmed, want %d", old.confirmed, next)
			}
			if next == 3 {
				break
			}
		}
		s.finish(old, time.Now())
		if v := told(s); !v.GetEnded() || v.GetSession() != 30 {
			t.Errorf("the leader was told %v at the end, want that session 30 ended", v)
		}
	})
}

func TestTheEndOfAFormerSessionIsNoNewsButItsFarewellIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		old := begun(t, s, 1)
		x := begun(t, s, 2)
		told(s)
		s.farewell(old, modelv1.Farewell_FAREWELL_RESTARTING)
		s.finish(old, time.Now())
		if v := told(s); v != nil {
			t.Errorf("the leader was told %v of a session that was followed by another", v)
		}
		s.finish(x, time.Now())
		if v := told(s); !v.GetEnded() || v.GetSession() != 2 || v.GetFarewell() != modelv1.Farewell_FAREWELL_RESTARTING {
			t.Errorf("the leader was told %v, want the end of session 2 and that the node restarts", v)
		}
	})
}

func TestASessionOfAnotherBootIsKeptForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		first, second := begun(t, s, 1), begun(t, s, 2)
		x := &session{node: nodeN(1), boot: []byte("another"), counter: 1, wake: make(chan struct{}, 1)}
		if why := s.begin(x); why != "" || first.ended == nil || second.ended == nil || x.former != nil {
			t.Errorf("%q; the sessions of the former boot ended with %v and %v, want both replaced", why, first.ended, second.ended)
		}
	})
}

// TestBeatsGoToTheLeaderTogether, a quarter of a second late at most.
func TestBeatsGoToTheLeaderTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		a := begun(t, s, 1)
		b := &session{node: nodeN(2), counter: 1, slots: make(chan struct{}, maxHeld), wake: make(chan struct{}, 1)}
		if why := s.begin(b); why != "" {
			t.Fatal(why)
		}
		<-s.wake
		s.news(time.Now())
		s.beat(a, &dispatchv1.SessionRequest{Beat: 2}, beatPace, time.Now())
		time.Sleep(beatPace / 2)
		s.beat(b, &dispatchv1.SessionRequest{Beat: 2}, beatPace, time.Now())
		synctest.Wait()
		select {
		case <-s.wake:
			t.Fatal("the first beat did not wait")
		default:
		}
		time.Sleep(beatPace / 2)
		synctest.Wait()
		<-s.wake
		if req := s.news(time.Now()); len(req.GetLiveness()) != 2 {
			t.Errorf("the leader is told %v, want both beats", req)
		}
	})
}
