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
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		os.Exit(daemon()) // a manager of the bench
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
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.only, "scenario", "", "names of scenarios, with commas (default: all)")
	f.IntVar(&o.replicas, "replicas", 0, "tasks of a service (default: as the scenario says)")
	f.IntVar(&o.agents, "agents", 0, "agents (default: as the scenario says)")
	f.IntVar(&o.managers, "managers", 0, "managers, 1 or 3 (default: as the scenario says)")
	f.StringVar(&o.kind, "kind", "", "agents: light or real (default: as the scenario says)")
	f.IntVar(&o.runs, "runs", 3, "runs of each scenario, one of each in turn")
	f.StringVar(&o.format, "format", "table", "table or json")
	f.StringVar(&o.dir, "dir", "/var/tmp", "directory on the disk to measure")
	f.StringVar(&o.profiles, "cpuprofile", "", "directory that receives the managers' CPU profiles")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, errors.Join(
		check(f.NArg() == 0, "unexpected argument %q", f.Arg(0)),
		check(o.format == "table" || o.format == "json", "--format %q: want table or json", o.format),
		check(o.managers == 0 || o.managers == 1 || o.managers == 3, "--managers %d: want 1 or 3", o.managers),
		check(o.kind == "" || o.kind == "light" || o.kind == "real", "--kind %q: want light or real", o.kind),
		check(o.runs > 0, "--runs %d: want 1 or more", o.runs))
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
	todo, err := chosen(o)
	if err != nil {
		return err
	}
	if err := raiseLimits(); err != nil {
		progress("open files are bounded: %v", err)
	}
	m, err := probe(o.dir)
	if err != nil {
		return err
	}
	progress("this machine: %v", m)
	book := &book{machine: m}
	for n := range o.runs {
		for _, s := range todo {
			progress("run %d of %d: %s", n+1, o.runs, s)
			if err := s.once(ctx, o, book); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
	}
	return book.print(os.Stdout, o.format)
}

// chosen returns the scenarios that were asked for, with what the flags change.
func chosen(o options) ([]scenario, error) {
	var out []scenario
	wanted := strings.FieldsFunc(o.only, func(r rune) bool { return r == ',' })
	known := map[string]bool{}
	for _, s := range scenarios {
		known[s.name] = true
		if len(wanted) > 0 && !slices.Contains(wanted, s.name) {
			continue
		}
		if o.managers != 0 && s.managers != o.managers && len(wanted) == 0 {
			continue
		}
		given := o.replicas != 0 || o.agents != 0 || o.kind != ""
		s.replicas, s.agents = or(o.replicas, s.replicas), or(o.agents, s.agents)
		s.managers, s.kind = or(o.managers, s.managers), or(o.kind, s.kind)
		if given {
			s.targets = nil // those are of the scenario as it is
		}
		if !slices.ContainsFunc(out, func(x scenario) bool { return x.String() == s.String() }) {
			out = append(out, s)
		}
	}
	for _, w := range wanted {
		if !known[w] {
			return nil, fmt.Errorf("--scenario %s: there is none; there are %s", w, strings.Join(names(), ", "))
		}
	}
	return out, nil
}

func names() (all []string) {
	for _, s := range scenarios {
		if !slices.Contains(all, s.name) {
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

// raiseLimits lets the process have as many open files as it may: an agent is a
// connection.
func raiseLimits() error {
	want := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err == nil {
		return nil
	}
	var have syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	have.Cur = have.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	return errors.New("no more than " + strconv.FormatUint(have.Cur, 10) + "; raise the limit as root for 10,000 agents")
}
