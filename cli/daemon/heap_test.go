package daemon

import (
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

func TestTheCollectorIsGivenRoomWhereItIsLittleInAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 100}, {15 * mib, 100}, {16 * mib, 300}, {64 * mib, 300}, {96 * mib, 200}, {192 * mib, 100}, {512 * mib, 100}, {1024 * mib, 50}, {2048 * mib, 25},
	} {
		if got := percentOf(c.live); got != c.want {
			t.Errorf("of %d MiB that live: %d %%, want %d %%", c.live/mib, got, c.want)
		}
	}
}

func TestTheCollectorHasRoomWhileItRunsOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var set []int
		freed := -1
		r := newRoom(func(percent int) { set = append(set, percent) }, func() { set = append(set, freed) })
		runs := func(rest time.Duration, live ...uint64) {
			for _, mibs := range live {
				time.Sleep(rest)
				r.ran(mibs * mib)
			}
			synctest.Wait()
		}
		want := func(what string, percents ...int) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			if !slices.Equal(set, percents) {
				t.Errorf("%s: set to %v, want %v", what, set, percents)
			}
			set = nil
		}
		runs(time.Minute, 70, 70)
		want("rarely") // and nothing is given back of what was not taken
		runs(time.Second, 8, 70, 72, 96, 100, 170, 192, 800, 1024, 1100, 96)
		want("often", 266, 200, 112, 100, 64, 200)
		runs(3*time.Second, 96, 96, 96)
		want("now and then")
		runs(4*time.Second, 96)
		want("for ten seconds", 100, freed)
		runs(0, 96, 96)
		time.Sleep(time.Minute)
		synctest.Wait()
		want("giving back takes two runs, and is not much to do")
		runs(time.Second, 70, 70)
		want("once more")
		runs(time.Second, 70, 70)
		want("often again", 274)
		runs(time.Second, 2048)
		want("very large", 25)
		time.Sleep(time.Minute)
		synctest.Wait()
		want("and calm")
	})
}

func TestEachRunOfTheCollectorIsSeen(t *testing.T) {
	set := make(chan int, 1)
	r := newRoom(func(percent int) {
		select {
		case set <- percent:
		default: // the test is over; finalizers wait for nobody
		}
	}, func() {})
	r.await()
	lives := make([]byte, 64*mib)
	for percent := 0; percent == 0; { // two runs at least; the second may be over before the first is seen
		runtime.GC()
		select {
		case percent = <-set:
			if percent < 2*usualPercent {
				t.Errorf("with 64 MiB that live it was set to %d %%", percent)
			}
		default:
			runtime.Gosched()
		}
	}
	runtime.KeepAlive(lives)
}
