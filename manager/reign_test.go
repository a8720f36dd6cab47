package manager

import (
	"testing"
	"testing/synctest"
)

func TestWhatFollowsALeaderEndsWithItsReign(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r reign
		before, stop := r.follow(t.Context())
		defer stop()
		r.of(t.Context(), 1)
		first, stop := r.follow(t.Context())
		defer stop()
		r.of(t.Context(), 1)
		if synctest.Wait(); first.Err() != nil {
			t.Error("a call ended though the leader is the same")
		}
		r.of(t.Context(), 0)
		second, stop := r.follow(t.Context())
		defer stop()
		if synctest.Wait(); first.Err() == nil || second.Err() != nil || before.Err() != nil {
			t.Errorf("after the leader was lost: the call to it %v, one before any %v, one after it %v; want only the first ended",
				first.Err(), before.Err(), second.Err())
		}
		r.of(t.Context(), 2)
		if synctest.Wait(); second.Err() == nil {
			t.Error("a call that found no leader goes on when there is one")
		}
	})
}
