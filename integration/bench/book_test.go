package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// twiceAsSlow is a machine whose processor is.
var twiceAsSlow = machine{sign: 2 * reference.sign}

// lineOf is the line of a metric, which there must be.
func lineOf(t *testing.T, b *book, metric string) line {
	t.Helper()
	all := b.lines()
	i := slices.IndexFunc(all, func(l line) bool { return l.Metric == metric })
	if i < 0 {
		t.Fatalf("no line %q", metric)
	}
	return all[i]
}

// What the processor bounds is judged as it would be on the machine of the
// targets, by the probes of its own run, and shown as it was.
func TestJudgesTheScaledFigure(t *testing.T) {
	s := scenario{name: "s", rows: map[string]target{"took": atMost(1), "rate": atLeast(100), "bytes": atMost(10)}}
	b := &book{}
	b.turn(twiceAsSlow)
	b.note(s, "took", "s", cpu, 1.8)
	b.note(s, "rate", perSecond, rate, 60)
	b.note(s, "bytes", "B", plain, 11)
	for metric, want := range map[string]struct {
		shown, scaled float64
		ok            bool
	}{"took": {1.8, 0.9, true}, "rate": {60, 120, true}, "bytes": {11, 0, false}} {
		l := lineOf(t, b, metric)
		if l.Median != want.shown || *l.OK != want.ok {
			t.Errorf("%s: %v, ok %v; want %+v", metric, l.Median, *l.OK, want)
		}
		if want.scaled != 0 && lineOf(t, b, metric+scaledTo).Median != want.scaled {
			t.Errorf("%s is scaled to %v, want %v", metric, lineOf(t, b, metric+scaledTo).Median, want.scaled)
		}
	}
	b.turn(reference)
	b.note(s, "took", "s", cpu, 1.2)
	if l := lineOf(t, b, "took"+scaledTo); l.Min != 0.9 || l.Max != 1.2 {
		t.Errorf("the second run is scaled by the first one's machine: %+v", l)
	}
}

// Rows are compared run by run, the worst is one of them, and what is owed or
// cannot be is said.
func TestConcludes(t *testing.T) {
	base := scenario{name: "base", rows: map[string]target{"took": none}}
	s := scenario{name: "s", base: base.String(), rows: map[string]target{
		"took": none, "took" + againstBase: atMost(2), worstOf + "took": atMost(5), "never": none}}
	b := &book{}
	b.turn(reference)
	for _, v := range [][2]float64{{1, 3}, {4, 4}, {2, 2}} {
		b.note(base, "took", "s", cpu, v[0])
		b.note(s, "took", "s", cpu, v[1])
	}
	b.note(s, "calls", perSecond, rate, 0)
	err := b.conclude([]scenario{base, s})
	if err == nil || !strings.Contains(err.Error(), `no figure "never"`) || !strings.Contains(err.Error(), "calls cannot be [0]") {
		t.Errorf("conclude says %v", err)
	}
	if l := lineOf(t, b, "took"+againstBase); l.Min != 1 || l.Median != 1 || l.Max != 3 || !*l.OK {
		t.Errorf("against base: %+v", l)
	}
	if l := lineOf(t, b, worstOf+"took"); l.Median != 4 || !*l.OK {
		t.Errorf("worst: %+v", l)
	}
}

// A line is one object with these fields, and what was printed fills a document
// again and again.
func TestPrintsWhatFillsADocument(t *testing.T) {
	s := scenario{name: "deploy", managers: 1, agents: 100, replicas: 10_000, kind: lightAgents, rows: map[string]target{"all running": atMost(0.5)}}
	b := &book{}
	b.turn(twiceAsSlow)
	b.note(s, "all running", "s", cpu, 1.5)
	var out bytes.Buffer
	if err := print(&out, "json", b.lines()); err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(out.String(), "\n")
	var fields map[string]any
	if err := json.Unmarshal([]byte(first), &fields); err != nil {
		t.Fatal(err)
	}
	want := []string{"agents", "kind", "managers", "max", "median", "metric", "min", "ok", "scenario", "target", "unit"}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("fields %v, want %v", got, want)
	}
	all, err := readLines(&out)
	if err != nil {
		t.Fatal(err)
	}
	text := "above\n" + tableBegins + "old\n" + tableEnds + "below\n"
	for range 2 {
		if text, err = fill(text, all); err != nil {
			t.Fatal(err)
		}
	}
	row := "| deploy ×10000 | 1 | 100 light | all running (s) | 1.5 | 1.5 | 1.5 | 0.75 | ≤ 0.5 | no |\n"
	if !strings.Contains(text, row) || strings.Contains(text, "old") || !strings.HasPrefix(text, "above\n") || !strings.HasSuffix(text, "below\n") {
		t.Errorf("filled:\n%s", text)
	}
	if _, err := fill("no table", all); err == nil {
		t.Error("a document without a table was filled")
	}
}

// Every scenario that is compared has its base before it, and the short form
// plays all that needs no lab hosts, smaller, held to nothing.
func TestChooses(t *testing.T) {
	all, err := chosen(options{only: "deploy-large", runs: 3})
	if err != nil || len(all) != 2 || all[0].String() != all[1].base {
		t.Fatalf("chosen: %v, %v", all, err)
	}
	short, err := chosen(options{short: true, runs: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names(func(s scenario) bool { return s.kind != labHosts }) {
		if !slices.ContainsFunc(short, func(s scenario) bool { return s.name == name }) {
			t.Errorf("the short form leaves %s out", name)
		}
	}
	for _, s := range short {
		for metric, goal := range s.rows {
			if goal != none {
				t.Errorf("%s: %s is held to %v in the short form", s, metric, goal)
			}
		}
		if s.kind == labHosts || s.base != "" && !slices.ContainsFunc(short, func(x scenario) bool { return x.String() == s.base }) {
			t.Errorf("the short form plays %s, base %q", s, s.base)
		}
	}
	if _, err := chosen(options{only: "nonsense"}); err == nil {
		t.Error("a scenario that there is not was chosen")
	}
}

func TestSizesGrowTenfold(t *testing.T) {
	if got := sizes(1_000_000); !slices.Equal(got, []int{1000, 10_000, 100_000, 1_000_000}) {
		t.Errorf("sizes are %v", got)
	}
	if got := paces(options{runs: 3}).trials * 3; got < 20 {
		t.Errorf("a leader is lost %d times", got)
	}
	if m := (machine{sync: time.Millisecond}); !strings.Contains(m.String(), "fdatasync 1ms") {
		t.Errorf("the machine is %v", m)
	}
}
