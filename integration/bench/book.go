package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
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
}

// bound says what a figure depends on, and with it how it is scaled.
type bound uint8

const (
	plain bound = iota // a count, or bound by something else
	cpu                // time that the processor takes: less on a faster one
	rate               // things a second that the processor bounds
)

// A book keeps the rows.
type book struct {
	machine machine
	rows    []*row
}

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
	r.values = append(r.values, v)
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
					b.note(s, metric, r.unit, r.bound, slices.Max(r.values))
				}
			}
			if b.find(s.String(), metric) == nil {
				owed = append(owed, fmt.Errorf("%s: no figure %q", s, metric))
			}
		}
	}
	slices.SortStableFunc(b.rows, func(x, y *row) int { return cmp.Compare(place(played, x), place(played, y)) })
	return errors.Join(owed...)
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

// A line is a row as it is printed.
type line struct {
	Scenario string   `json:"scenario"`
	Metric   string   `json:"metric"`
	Unit     string   `json:"unit"`
	Managers int      `json:"managers"`
	Agents   int      `json:"agents"`
	Kind     string   `json:"kind"`
	Min      float64  `json:"min"`
	Median   float64  `json:"median"`
	Max      float64  `json:"max"`
	Scaled   float64  `json:"scaled"`
	Target   *float64 `json:"target"`
	OK       *bool    `json:"ok"`

	target target
}

// line sums a row up. The median, scaled to the machine of the targets, is what
// the target is held against.
func (b *book) line(r *row) line {
	values := slices.Sorted(slices.Values(r.values)) // the row keeps the order of the runs
	l := line{
		Scenario: r.scenario.name, Metric: r.metric, Unit: r.unit, Managers: r.scenario.managers,
		Agents: r.scenario.agents, Kind: r.scenario.kind,
		Min: values[0], Median: values[len(values)/2], Max: values[len(values)-1],
	}
	switch l.Scaled = l.Median; r.bound {
	case cpu:
		l.Scaled = l.Median / b.machine.slower()
	case rate:
		l.Scaled = l.Median * b.machine.slower()
	}
	if t := r.scenario.rows[r.metric]; t != none {
		met := t.met(l.Scaled)
		l.target, l.Target, l.OK = t, &t.limit, &met
	}
	return l
}

// print writes all rows, as a table or as a JSON object a line.
func (b *book) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		for _, r := range b.rows {
			if err := enc.Encode(b.line(r)); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tMETRIC\tMIN\tMEDIAN\tMAX\tSCALED\tTARGET\tOK")
	for _, r := range b.rows {
		l := b.line(r)
		goal, ok := "", ""
		if l.OK != nil {
			goal, ok = l.target.String(), map[bool]string{true: "yes", false: "NO"}[*l.OK]
		}
		fmt.Fprintf(t, "%v\t%s (%s)\t%s\t%s\t%s\t%s\t%s\t%s\n", r.scenario, l.Metric, l.Unit,
			short(l.Min), short(l.Median), short(l.Max), short(l.Scaled), goal, ok)
	}
	return t.Flush()
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
