package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// A target is what a figure is to be, as the project has set it; the zero one
// is none.
type target struct {
	limit float64
	least bool // the figure is to be at least the limit, not at most
}

func atMost(v float64) target  { return target{limit: v} }
func atLeast(v float64) target { return target{limit: v, least: true} }

func (t target) met(v float64) bool {
	if t.least {
		return v >= t.limit
	}
	return v <= t.limit
}

func (t target) String() string {
	if t.least {
		return fmt.Sprintf("≥ %s", short(t.limit))
	}
	return fmt.Sprintf("≤ %s", short(t.limit))
}

// A row is one figure of one scenario, over all runs.
type row struct {
	scenario scenario
	metric   string
	unit     string
	bound    bound
	values   []float64
	scaled   []float64 // the same on the machine of the targets
}

// bound says what a figure depends on, and with it how it is scaled.
type bound uint8

const (
	plain bound = iota // a count, or bound by something else
	cpu                // time that the processor takes: less on a faster one
	rate               // things a second that the processor bounds
)

// scale is a figure as it would be on the machine of the targets.
func (b bound) scale(v float64, on machine) float64 {
	switch b {
	case cpu:
		return v / on.slower()
	case rate:
		return v * on.slower()
	}
	return v
}

// A book keeps the rows.
type book struct {
	machine machine // as it was last probed
	rows    []*row
}

// probed is the scenario of what the machine is.
var probed = scenario{name: "machine"}

// turn begins a run: what it notes is scaled by what the machine is now.
func (b *book) turn(m machine) {
	b.machine = m
	b.note(probed, "fdatasync of 4 KiB", "µs", plain, micros(m.sync))
	b.note(probed, "P-256 signature", "µs", plain, micros(m.sign))
	b.note(probed, "loopback stream message", "µs", plain, micros(m.stream))
	b.note(probed, "load of the last minute", "", plain, m.load)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// find returns a row by the words of its scenario; nil if there is none.
func (b *book) find(scenario, metric string) *row {
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.scenario.String() == scenario && r.metric == metric })
	if i < 0 {
		return nil
	}
	return b.rows[i]
}

// note adds the value of one run.
func (b *book) note(s scenario, metric, unit string, how bound, v float64) {
	r := b.find(s.String(), metric)
	if r == nil {
		r = &row{scenario: s, metric: metric, unit: unit, bound: how}
		b.rows = append(b.rows, r)
	}
	r.values, r.scaled = append(r.values, v), append(r.scaled, how.scale(v, b.machine))
}

// The rows that are made of others when all has run.
const (
	againstBase = ", against base"
	worstOf     = "worst "
)

// conclude makes those rows for the scenarios that were played, and returns what
// figures one of them owes.
func (b *book) conclude(played []scenario) error {
	var owed []error
	for _, s := range played {
		for _, metric := range slices.Sorted(maps.Keys(s.rows)) {
			if of, ok := strings.CutSuffix(metric, againstBase); ok {
				b.compare(s, metric, of)
			} else if of, ok := strings.CutPrefix(metric, worstOf); ok {
				if r := b.find(s.String(), of); r != nil {
					b.note(s, metric, r.unit, plain, slices.Max(r.values))
				}
			}
			if b.find(s.String(), metric) == nil {
				owed = append(owed, fmt.Errorf("%s: no figure %q", s, metric))
			}
		}
	}
	for _, r := range b.rows {
		if !r.sound() {
			owed = append(owed, fmt.Errorf("%s: %s cannot be %v", r.scenario, r.metric, r.values))
		}
	}
	slices.SortStableFunc(b.rows, func(x, y *row) int { return cmp.Compare(place(played, x), place(played, y)) })
	return errors.Join(owed...)
}

// sound reports whether a figure can be one: time and rates are not below
// nothing, and a rate of nothing is a scenario that did nothing.
func (r *row) sound() bool {
	return !slices.ContainsFunc(r.values, func(v float64) bool {
		return math.IsNaN(v) || math.IsInf(v, 0) || r.bound == cpu && v < 0 || r.bound == rate && v <= 0
	})
}

// place is where the scenario of a row stands among those played.
func place(played []scenario, r *row) int {
	return slices.IndexFunc(played, func(s scenario) bool { return s.String() == r.scenario.String() })
}

// compare divides what the scenario gave in each run by what its base gave in
// the same: the machine was the same one then.
func (b *book) compare(s scenario, metric, of string) {
	own, base := b.find(s.String(), of), b.find(s.base, of)
	if own == nil || base == nil {
		return
	}
	for i := range min(len(own.values), len(base.values)) {
		if base.values[i] > 0 {
			b.note(s, metric, "×", plain, own.values[i]/base.values[i])
		}
	}
}

// short writes a number with three digits that count.
func short(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
