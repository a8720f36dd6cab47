package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

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
	Target   *float64 `json:"target"`
	OK       *bool    `json:"ok"`
}

// lines sums the rows up. One that the processor bounds has a second line behind
// it, of the same on the machine of the targets.
func (b *book) lines() (all []line) {
	for _, r := range b.rows {
		l := r.line("", r.values)
		scaled := r.line(scaledTo, r.scaled)
		if t := r.scenario.rows[r.metric]; t != none {
			met := t.met(scaled.Median)
			l.Target, l.OK = &t.limit, &met
		}
		all = append(all, l)
		if r.bound != plain {
			all = append(all, scaled)
		}
	}
	return all
}

// scaledTo ends the metric of a line that is scaled.
const scaledTo = ", scaled"

func (r *row) line(suffix string, values []float64) line {
	values = slices.Sorted(slices.Values(values)) // the row keeps the order of the runs
	name := r.scenario.name
	if r.scenario.replicas > 1 {
		name += fmt.Sprintf(" ×%d", r.scenario.replicas)
	}
	return line{
		Scenario: name, Metric: r.metric + suffix, Unit: r.unit,
		Managers: r.scenario.managers, Agents: r.scenario.agents, Kind: r.scenario.kind,
		Min: values[0], Median: values[len(values)/2], Max: values[len(values)-1],
	}
}

// print writes lines as a table, as the Markdown of one, or as a JSON object each.
func print(w io.Writer, format string, all []line) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		for _, l := range all {
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
		return nil
	case "markdown":
		_, err := io.WriteString(w, markdown(all))
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range cells(all) {
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

func markdown(all []line) string {
	var b strings.Builder
	for i, c := range cells(all) {
		b.WriteString("| " + strings.Join(c, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat("---|", len(c)) + "\n")
		}
	}
	return b.String()
}

// cells are the table of lines: what is scaled stands beside what it is scaled of.
func cells(all []line) [][]string {
	table := [][]string{{"scenario", "managers", "agents", "figure", "min", "median", "max", "scaled", "target", "ok"}}
	for _, l := range all {
		if strings.HasSuffix(l.Metric, scaledTo) {
			table[len(table)-1][7] = short(l.Median)
			continue
		}
		agents, goal, ok := "", "", ""
		if l.Agents > 0 {
			agents = fmt.Sprintf("%d %s", l.Agents, l.Kind)
		}
		if l.Target != nil && l.OK != nil {
			goal, ok = target{limit: *l.Target, least: l.Unit == perSecond}.String(), map[bool]string{true: "yes", false: "no"}[*l.OK]
		}
		figure := l.Metric
		if l.Unit != "" {
			figure += " (" + l.Unit + ")"
		}
		table = append(table, []string{l.Scenario, fmt.Sprint(l.Managers), agents, figure,
			short(l.Min), short(l.Median), short(l.Max), "", goal, ok})
	}
	return table
}

// perSecond is the unit of what is to be much; of all else there is to be little.
const perSecond = "1/s"

// readLines reads what print wrote as JSON.
func readLines(r io.Reader) (all []line, err error) {
	for dec := json.NewDecoder(r); ; {
		var l line
		if err := dec.Decode(&l); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
}

// The marks between which a document's table of figures stands.
const (
	tableBegins = "<!-- bench: begin -->\n"
	tableEnds   = "<!-- bench: end -->"
)

// fill returns a document with the figures of all in the place of its table.
func fill(document string, all []line) (string, error) {
	head, rest, begins := strings.Cut(document, tableBegins)
	_, tail, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return "", fmt.Errorf("there is no %q with %q behind it", strings.TrimSpace(tableBegins), tableEnds)
	}
	return head + tableBegins + markdown(all) + tableEnds + tail, nil
}

// fillFile fills the document in a file.
func fillFile(name string, from io.Reader) error {
	all, err := readLines(from)
	if err != nil {
		return fmt.Errorf("read figures: %w", err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	filled, err := fill(string(text), all)
	if err != nil {
		return fmt.Errorf("fill %s: %w", name, err)
	}
	return os.WriteFile(name, []byte(filled), 0o644)
}
