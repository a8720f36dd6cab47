// Package meter counts what happens, cheaply enough to be left on for ever.
//
// It owns counters and histograms of plain atomics; whoever does the work keeps
// them as fields and adds to them. It leaves names, labels and how they are told
// to internal/metrics, so no room that counts knows who asks.
//
// Invariants: counting takes no lock, allocates nothing and waits for nobody; a
// counter never falls. A Reading is taken while others count: its sum may be a
// few observations ahead of its buckets, and never behind.
package meter

import (
	"sync/atomic"
	"time"
)

// A Counter counts what happened since it was made. The zero value is ready.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n; a count that is not above zero adds nothing.
func (c *Counter) Add(n int) {
	if n > 0 {
		c.n.Add(uint64(n))
	}
}

// Value returns the count.
func (c *Counter) Value() uint64 { return c.n.Load() }

// durations are the upper bounds of a Durations' buckets: from what a write to a
// good disk takes to what makes a caller give up.
var durations = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 60 * time.Second,
}

// Durations is a histogram of how long something took. The zero value is ready.
type Durations struct {
	buckets [len(durations) + 1]atomic.Uint64 // the last: longer than all bounds
	nanos   atomic.Int64
}

// Observe notes one duration; a negative one counts as zero.
func (d *Durations) Observe(took time.Duration) {
	took = max(0, took)
	d.nanos.Add(int64(took))
	i := 0
	for i < len(durations) && took > durations[i] {
		i++
	}
	d.buckets[i].Add(1)
}

// Since observes the time from begin to now.
func (d *Durations) Since(begin time.Time) { d.Observe(time.Since(begin)) }

// Read returns what was observed, in seconds.
func (d *Durations) Read() Reading {
	r := read(d.buckets[:], func(i int) float64 { return durations[i].Seconds() })
	r.Sum = time.Duration(d.nanos.Load()).Seconds()
	return r
}

// sizeBounds is how many bounds a Sizes has: the powers of two from 1 to 4096.
const sizeBounds = 13

// Sizes is a histogram of small numbers: how many came at once. The zero value is
// ready.
type Sizes struct {
	buckets [sizeBounds + 1]atomic.Uint64 // the last: more than all bounds
	sum     atomic.Uint64
}

// Observe notes one number; a negative one counts as zero.
func (s *Sizes) Observe(n int) {
	n = max(0, n)
	s.sum.Add(uint64(n))
	i := 0
	for i < sizeBounds && n > 1<<i {
		i++
	}
	s.buckets[i].Add(1)
}

// Read returns what was observed.
func (s *Sizes) Read() Reading {
	r := read(s.buckets[:], func(i int) float64 { return float64(int(1) << i) })
	r.Sum = float64(s.sum.Load())
	return r
}

// A Reading is what a histogram held when it was read.
type Reading struct {
	// Count is how much was observed, and Sum what it adds up to.
	Count uint64
	Sum   float64
	// Upto is, by upper bound, how many were not greater: it only rises.
	Upto map[float64]uint64
}

func read(buckets []atomic.Uint64, bound func(int) float64) Reading {
	r := Reading{Upto: make(map[float64]uint64, len(buckets)-1)}
	for i := range buckets {
		r.Count += buckets[i].Load()
		if i < len(buckets)-1 {
			r.Upto[bound(i)] = r.Count
		}
	}
	return r
}
