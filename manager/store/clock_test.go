package store

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLogTimeThatIsAheadGoesOnUntilTheClockCatchesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, index := New(), uint64(0)
		log := func(clock time.Time) {
			index++
			s.Apply(index, clock.UnixNano(), nil)
		}
		log(time.Now())
		if got := s.Now(); !got.Equal(time.Now()) {
			t.Errorf("log time is not ahead, and it is %v at %v", got, time.Now())
		}
		began := time.Now()
		log(began.Add(time.Hour)) // by a leader whose clock was wrong
		last := s.Now()
		if want := began.Add(time.Hour); !last.Equal(want) {
			t.Fatalf("it is %v, want %v", last, want)
		}
		// Entries take a while from their stamp to here, and are many or few.
		for n := 1; time.Since(began) < 8*time.Hour; n++ {
			stamp := s.Now()
			time.Sleep(time.Duration(n%7) * 10 * time.Second)
			log(stamp)
			now := s.Now()
			if now.Before(last) || now.Before(s.Snapshot().LogTime()) {
				t.Fatalf("it ran back from %v to %v", last, now)
			}
			last = now
			want := began.Add(time.Hour + time.Since(began)*9/10)
			if off := now.Sub(want).Abs(); off > time.Second {
				t.Fatalf("after %v it is %v, want %v", time.Since(began), now, want)
			}
		}
		time.Sleep(3 * time.Hour)
		if got := s.Now(); !got.Equal(time.Now()) {
			t.Errorf("an hour was not made good in eleven: it is %v at %v", got, time.Now())
		}
	})
}

func TestAClockThatIsSetBackDoesNotHoldUpAQuietLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.Apply(1, time.Now().Add(time.Hour).UnixNano(), nil) // as it is after a step back
		at := s.Now()
		time.Sleep(10 * time.Second) // and nothing is logged
		if went := s.Now().Sub(at); went != 9*time.Second {
			t.Errorf("it went %v in 10 s, want 9 s", went)
		}
		if tx := s.Snapshot(); tx.LogTime() != at {
			t.Errorf("the state's own time went from %v to %v", at, tx.LogTime())
		}
	})
}
