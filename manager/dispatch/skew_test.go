package dispatch

import (
	"context"
	"testing"
	"time"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

func TestANodesClockIsNotedWhenItIsOffAndWhenItIsRightAgain(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	told := func(ahead time.Duration) time.Duration {
		h := word(1, 1)
		h.ahead, h.by = ahead, nodeN(9)
		l.hear(h, epoch)
		return time.Duration(l.nodes[nodeN(1)].status.GetClockAhead())
	}
	news := func() bool { return len(l.changed()) > 0 }
	told(0)
	news()
	for _, step := range []struct {
		ahead, want time.Duration
		news        bool
	}{
		{ahead: 4 * time.Second},
		{ahead: -3 * time.Hour, want: -3 * time.Hour, news: true},
		{ahead: -3*time.Hour - time.Minute, want: -3 * time.Hour}, // as much, for a person
		{ahead: -4 * time.Hour, want: -4 * time.Hour, news: true},
		{ahead: 10 * time.Second, want: 10 * time.Second, news: true},
		{ahead: 12 * time.Second, want: 10 * time.Second},
		{ahead: time.Second, news: true},
	} {
		changed := false
		for range maxClocks {
			told(step.ahead)
			changed = news() || changed
		}
		if got := told(step.ahead); got != step.want || changed != step.news {
			t.Errorf("%v ahead: noted %v, want %v and news %v", step.ahead, got, step.want, step.news)
		}
	}
	for range maxClocks {
		told(-time.Hour)
	}
	by := l.nodes[nodeN(1)].status.GetClockBy()
	end := word(1, 1)
	end.ended = true
	l.hear(end, epoch)
	if s := l.nodes[nodeN(1)].status; s.GetClockAhead() != -int64(time.Hour) || string(by) != string(nodeN(9).Bytes()) {
		t.Errorf("status after the session ended %v, want the clock kept", s)
	}
}

// TestABeatThatWasHeldUpBlamesNoClock: what waits in a queue is late by the wait.
func TestABeatThatWasHeldUpBlamesNoClock(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	for _, late := range []time.Duration{0, 0, 10 * time.Second, 8 * time.Second, 6 * time.Second, 4 * time.Second, 2 * time.Second, 0} {
		h := word(1, 1)
		h.ahead, h.by = -late, nodeN(9)
		l.hear(h, epoch)
		if off := l.nodes[nodeN(1)].status.GetClockAhead(); off != 0 {
			t.Errorf("a beat that was %v late: the clock is said to be %v off", late, time.Duration(off))
		}
	}
}

// TestANodeIsToldThatItsClockIsWrong, by its own session, whichever manager has it.
func TestANodeIsToldThatItsClockIsWrong(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, _ *replica, _, follower *manager) {
		req := opening(1)
		req.Clock = time.Now().Add(-3 * time.Hour).UnixNano()
		a := follower.open(ctx, t, 1, req)
		told := a.until("a wish that names the clock", func(m *dispatchv1.SessionResponse) bool { return m.GetWish().GetClockAhead() != 0 }).GetWish()
		ahead := time.Duration(told.GetClockAhead())
		if (ahead+3*time.Hour).Abs() > time.Second || string(told.GetClockBy()) != string(nodeN(2).Bytes()) {
			t.Errorf("told that it is %v ahead by %x, want 3h behind by the leader", ahead, told.GetClockBy())
		}
	})
}
