package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// A target is what a figure is to be, as the project has set it.
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

// note adds the value of one run.
func (b *book) note(s scenario, metric, unit string, how bound, v float64) {
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.scenario.String() == s.String() && r.metric == metric })
	if i < 0 {
		b.rows = append(b.rows, &row{scenario: s, metric: metric, unit: unit, bound: how})
		i = len(b.rows) - 1
	}
	b.rows[i].values = append(b.rows[i].values, v)
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
	slices.Sort(r.values)
	l := line{
		Scenario: r.scenario.name, Metric: r.metric, Unit: r.unit, Managers: r.scenario.managers,
		Agents: r.scenario.agents, Kind: r.scenario.kind,
		Min: r.values[0], Median: r.values[len(r.values)/2], Max: r.values[len(r.values)-1],
	}
	switch l.Scaled = l.Median; r.bound {
	case cpu:
		l.Scaled = l.Median / b.machine.slower()
	case rate:
		l.Scaled = l.Median * b.machine.slower()
	}
	if t, ok := r.scenario.targets[r.metric]; ok {
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
