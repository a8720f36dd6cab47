// Command bench measures the control plane as its users meet it: managers are
// processes of their own with the shipped defaults (a sealed log on the disk,
// with fsync, mTLS between them), agents are many in this process, and all that
// is asked goes through the public API.
//
// It prints a row a figure, with the least, the median and the greatest of the
// runs and the target beside it. It judges nothing but by "ok": a figure bound
// by the CPU is also shown as it would be on the machine the targets were set
// on, by three probes that every run begins with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

func main() {
	lab.Init()
	switch {
	case len(os.Args) > 1 && os.Args[1] == "daemon":
		os.Exit(daemon()) // a manager of the bench
	case len(os.Args) > 3 && os.Args[1] == "flood":
		if err := serveFlood(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 2 && os.Args[1] == "echo":
		if err := serveEcho(); err != nil {
			fmt.Fprintln(os.Stderr, "echo:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 3 && os.Args[1] == "replica":
		if err := serveReplica(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "replica:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	only     string
	replicas int
	agents   int
	managers int
	kind     string
	runs     int
	format   string
	dir      string
	profiles string
	ctl      string
	fill     string
	short    bool
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.only, "scenario", "", "names of scenarios, with commas (default: all but "+strings.Join(names(func(s scenario) bool { return s.slow }), ", ")+")")
	f.IntVar(&o.replicas, "replicas", 0, "tasks of a service (default: as the scenario says)")
	f.IntVar(&o.agents, "agents", 0, "agents (default: as the scenario says)")
	f.IntVar(&o.managers, "managers", 0, "managers, 1, 3 or 5 (default: as the scenario says)")
	f.StringVar(&o.kind, "kind", "", "agents: light or real (default: as the scenario says)")
	f.IntVar(&o.runs, "runs", 3, "runs of each scenario, one of each in turn")
	f.StringVar(&o.format, "format", "table", "table, markdown or json")
	f.StringVar(&o.fill, "fill", "", "measure nothing: replace the table in this document by the figures on standard input, JSON as it was printed")
	f.StringVar(&o.dir, "dir", "/var/tmp", "directory on the disk to measure")
	f.StringVar(&o.profiles, "cpuprofile", "", "directory that receives the managers' CPU profiles")
	f.StringVar(&o.ctl, "bin", "bin/ctl", "the ctl of lab hosts; containerd and runc lie beside it")
	f.BoolVar(&o.short, "short", false, "play everything once with few of everything, and judge nothing but that it works")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.short {
		o.runs = 1
	}
	return o, errors.Join(
		check(f.NArg() == 0, "unexpected argument %q", f.Arg(0)),
		check(slices.Contains([]string{"table", "markdown", "json"}, o.format), "--format %q: want table, markdown or json", o.format),
		check(slices.Contains([]int{0, 1, 3, 5}, o.managers), "--managers %d: want 1, 3 or 5", o.managers),
		check(o.kind == "" || o.kind == "light" || o.kind == "real", "--kind %q: want light or real", o.kind),
		check(o.runs > 0, "--runs %d: want 1 or more", o.runs))
}

// profileOf is the file for the CPU profile of a scenario's manager, "" without
// --cpuprofile.
func (o options) profileOf(s scenario, manager int) string {
	if o.profiles == "" {
		return ""
	}
	return filepath.Join(o.profiles, fmt.Sprintf("%s-m%d.pprof", strings.NewReplacer(" ", "-", "×", "x").Replace(s.String()), manager+1))
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// run measures what was asked for, one run of each scenario in turn.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.fill != "" {
		return fillFile(o.fill, os.Stdin)
	}
	todo, err := chosen(o)
	if err != nil {
		return err
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
	}
	files, err := raiseLimits()
	if err != nil {
		return err
	}
	b := &book{}
	var errs []error
	for n := range o.runs {
		errs = append(errs, b.run(ctx, o, n, todo, files))
	}
	errs = append(errs, b.conclude(todo), print(os.Stdout, o.format, b.lines()))
	return errors.Join(errs...)
}

// run plays each scenario once, and probes the machine before. One that fails
// keeps none from being played.
func (b *book) run(ctx context.Context, o options, n int, todo []scenario, files uint64) error {
	m, err := probe(o.dir)
	if err != nil {
		return err
	}
	progress("run %d of %d: %v", n+1, o.runs, m)
	b.turn(m)
	var errs []error
	for i, s := range todo {
		if ctx.Err() != nil {
			break
		}
		if need := uint64(s.agents + filesBeside); need > files { //nolint:gosec // not negative
			errs = append(errs, fmt.Errorf("%s: needs %d open files and may have %d: raise the limit (ulimit -Hn) or ask for fewer --agents", s, need, files))
			continue
		}
		began := time.Now()
		progress("run %d of %d, scenario %d of %d: %s, load %v", n+1, o.runs, i+1, len(todo), s, load())
		if err := s.once(ctx, o, b); err != nil {
			progress("  it failed: %v", err)
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
			continue
		}
		progress("  that took %v", time.Since(began).Round(100*time.Millisecond))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// chosen returns the scenarios that were asked for, with what the flags change,
// each behind the one that it is compared with.
func chosen(o options) ([]scenario, error) {
	var out []scenario
	wanted := strings.FieldsFunc(o.only, func(r rune) bool { return r == ',' })
	for _, w := range wanted {
		if all := names(func(scenario) bool { return true }); !slices.Contains(all, w) {
			return nil, fmt.Errorf("--scenario %s: there is none; there are %s", w, strings.Join(all, ", "))
		}
	}
	for _, s := range scenarios {
		if !o.wants(s, wanted) {
			continue
		}
		if base := baseOf(s); base != nil {
			out = with(out, o.shape(*base))
		}
		out = with(out, o.shape(s))
	}
	return out, nil
}

// wants reports whether a scenario is to be played: one that is named, or any
// that fits. The short form leaves out what needs lab hosts, and no size is too
// slow for it.
func (o options) wants(s scenario, named []string) bool {
	switch {
	case len(named) > 0:
		return slices.Contains(named, s.name)
	case o.short:
		return s.kind != labHosts
	}
	return !s.slow && (o.managers == 0 || s.managers == o.managers)
}

// with adds a scenario unless it is there.
func with(all []scenario, s scenario) []scenario {
	if slices.ContainsFunc(all, func(x scenario) bool { return x.String() == s.String() }) {
		return all
	}
	return append(all, s)
}

func baseOf(s scenario) *scenario {
	i := slices.IndexFunc(scenarios, func(x scenario) bool { return x.String() == s.base })
	if i < 0 {
		return nil
	}
	return &scenarios[i]
}

// shape makes a scenario what the flags say. One of another size, the short form's
// too, is held to nothing and compared with nothing: targets are of the scenario as
// it is, and few of everything may take less time than the system counts in.
func (o options) shape(s scenario) scenario {
	s.pace = paces(o)
	if o.short {
		s = s.small()
	}
	was := s.String()
	s.replicas, s.agents = or(o.replicas, s.replicas), or(o.agents, s.agents)
	s.managers, s.kind = or(o.managers, s.managers), or(o.kind, s.kind)
	if o.short || s.String() != was {
		rows := make(map[string]target, len(s.rows))
		for metric := range s.rows {
			if !strings.HasSuffix(metric, againstBase) {
				rows[metric] = none
			}
		}
		s.rows = rows
	}
	return s
}

// names are those of the scenarios that ok holds of.
func names(ok func(scenario) bool) (all []string) {
	for _, s := range scenarios {
		if ok(s) && !slices.Contains(all, s.name) {
			all = append(all, s.name)
		}
	}
	return all
}

// or returns the first value that is not zero.
func or[T comparable](vals ...T) (v T) {
	for _, v := range vals {
		if v != *new(T) {
			return v
		}
	}
	return v
}

// progress says on standard error how far the bench is.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }

// filesBeside is how many open files the bench needs beside one an agent.
const filesBeside = 500

// raiseLimits lets the process, and the managers that it starts, have as many
// open files as it may, and returns how many: an agent is a connection.
func raiseLimits() (uint64, error) {
	const most = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most}); err == nil {
		return most, nil
	}
	var have syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		return 0, err
	}
	have.Cur = have.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		return 0, err
	}
	progress("open files could not be raised to %d: there may be %d", most, have.Cur)
	return have.Cur, nil
}
