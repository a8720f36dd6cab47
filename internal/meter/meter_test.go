package meter_test

import (
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/meter"
)

func TestACounterNeverFalls(t *testing.T) {
	t.Parallel()
	var c meter.Counter
	c.Inc()
	c.Add(3)
	c.Add(0)
	c.Add(-5)
	if got := c.Value(); got != 4 {
		t.Errorf("value = %d, want 4", got)
	}
}

func TestADurationStandsInTheBucketThatHoldsIt(t *testing.T) {
	t.Parallel()
	var d meter.Durations
	for _, took := range []time.Duration{-time.Second, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Hour} {
		d.Observe(took)
	}
	r := d.Read()
	if r.Count != 4 || r.Upto[0.0001] != 2 || r.Upto[0.00025] != 3 || r.Upto[60] != 3 {
		t.Errorf("reading = %+v; want 4, of them 2 up to 0.1 ms, 3 up to 0.25 ms and 60 s", r)
	}
	if want := 3600.0002; math.Abs(r.Sum-want) > 1e-6 {
		t.Errorf("sum = %v, want %v", r.Sum, want)
	}
}

func TestAHistogramAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s meter.Sizes
		sum := 0
		sizes := rapid.SliceOf(rapid.IntRange(0, 10_000)).Draw(t, "sizes")
		for _, n := range sizes {
			s.Observe(n)
			sum += n
		}
		r := s.Read()
		if r.Count != uint64(len(sizes)) || r.Sum != float64(sum) {
			t.Fatalf("count %d sum %v, want %d and %d", r.Count, r.Sum, len(sizes), sum)
		}
		for bound, upto := range r.Upto {
			want := uint64(0)
			for _, n := range sizes {
				if float64(n) <= bound {
					want++
				}
			}
			if upto != want {
				t.Fatalf("up to %v: %d, want %d", bound, upto, want)
			}
		}
	})
}

func TestManyCountAtOnce(t *testing.T) {
	t.Parallel()
	var d meter.Durations
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				d.Observe(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if r := d.Read(); r.Count != 4000 || r.Upto[0.001] != 4000 {
		t.Errorf("reading = %+v, want 4000 up to 1 ms", r)
	}
}

func BenchmarkObserve(b *testing.B) {
	var d meter.Durations
	for b.Loop() {
		d.Observe(300 * time.Microsecond)
	}
}
