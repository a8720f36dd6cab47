package daemon

import (
	"runtime"
	"slices"
	"testing"
)

func TestTheCollectorIsGivenRoomWhereItIsLittleInAll(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 100}, {15 * mib, 100}, {16 * mib, 300}, {64 * mib, 300}, {96 * mib, 200}, {192 * mib, 100}, {2048 * mib, 100},
	} {
		if got := percentOf(c.live); got != c.want {
			t.Errorf("of %d MiB that live: %d %%, want %d %%", c.live/mib, got, c.want)
		}
	}
}

func TestTheRoomTurnsWhenItIsWorthStoppingFor(t *testing.T) {
	t.Parallel()
	var set []int
	r := &room{percent: usualPercent, set: func(percent int) { set = append(set, percent) }}
	for _, mib := range []uint64{8, 70, 72, 96, 100, 192, 4} {
		r.turn(mib << 20)
	}
	if want := []int{274, 200, 100}; !slices.Equal(set, want) {
		t.Errorf("set to %v, want %v", set, want)
	}
}

func TestEachRunOfTheCollectorTurnsTheRoom(t *testing.T) {
	set := make(chan int, 2)
	r := &room{percent: usualPercent, set: func(percent int) {
		select {
		case set <- percent:
		default: // the test is over; finalizers wait for nobody
		}
	}}
	r.await()
	lives := make([]byte, 64<<20)
	runtime.GC()
	if got := <-set; got < 2*usualPercent {
		t.Errorf("with 64 MiB that live it was set to %d %%", got)
	}
	runtime.KeepAlive(lives)
	runtime.GC()
	if got := <-set; got != usualPercent {
		t.Errorf("with next to nothing that lives it was set to %d %%", got)
	}
}
