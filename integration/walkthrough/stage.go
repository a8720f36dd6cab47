// Package walkthrough replays the operator's story of a swarm that is tested by
// killing machines, with real daemons and containers on lab hosts.
//
// It owns the story: an ordered list of steps, each a command as typed and
// what must be seen. The test runs it and fails; the demo runs it for a person
// and times every recovery. How hosts are made and killed is internal/lab's.
package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// A Teller hears the story as it goes.
type Teller interface {
	// Step begins a step.
	Step(s Step)
	// Command is what was typed on a host, and what it printed.
	Command(host, line string, r lab.Result)
	// Event is something done to a host, or seen of it.
	Event(text string)
	// Timed is how long something took, against what is promised.
	Timed(what string, took, limit time.Duration)
}

// A Stage is a lab in which the story plays.
type Stage struct {
	lab   *lab.Lab
	hosts map[string]*lab.Host
	tell  Teller

	// What later steps need of earlier ones.
	tokens     map[string]string // by role
	killed     time.Time
	containers map[string]string // by host: process ids and start times
	cluster    string            // its id, as ctl info shows it
	leader     string            // a host
	doomed     []string          // ids of the tasks that ran on the host killed last

	faults []error // what was not as it must be, though the story could go on
}

// Open makes a stage. bin is the directory of ctl and the container runtime.
func Open(ctx context.Context, bin string, tell Teller, log *slog.Logger) (*Stage, error) {
	l, err := lab.New(ctx, lab.Config{Bin: bin, Log: log})
	if err != nil {
		return nil, err
	}
	return &Stage{
		lab: l, hosts: map[string]*lab.Host{}, tell: tell,
		tokens: map[string]string{}, containers: map[string]string{},
	}, nil
}

// Close kills every host and leaves nothing of the lab.
func (s *Stage) Close() error { return s.lab.Close() }

// Logs returns the end of what every host's daemon said.
func (s *Stage) Logs(bytes int64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.hosts)) {
		fmt.Fprintf(&b, "--- daemon of %s\n%s\n", name, s.hosts[name].LogTail(bytes))
	}
	return b.String()
}

// daemonPatience bounds the time from a daemon's start to its first answer; a
// private containerd is started meanwhile.
const daemonPatience = 30 * time.Second

// Raise makes hosts, gives them power, and starts their daemons.
func (s *Stage) Raise(ctx context.Context, names ...string) error {
	for _, name := range names {
		h, err := s.lab.Host(name)
		if err != nil {
			return err
		}
		s.hosts[name] = h
		if err := s.boot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// boot gives a host power and starts its daemon.
func (s *Stage) boot(ctx context.Context, name string) error {
	h := s.hosts[name]
	if err := h.Boot(ctx); err != nil {
		return err
	}
	return s.serve(ctx, name)
}

// serve starts a host's daemon and waits until it answers.
func (s *Stage) serve(ctx context.Context, name string) error {
	h := s.hosts[name]
	if err := h.Daemon(ctx); err != nil {
		return err
	}
	ctx, stop := context.WithTimeoutCause(ctx, daemonPatience, errors.New("it does not answer"))
	defer stop()
	for {
		r, err := h.Exec(ctx, "ctl", "info")
		if err == nil && r.Code == 0 {
			return nil
		}
		if !h.DaemonRuns() {
			return fmt.Errorf("the daemon of %s ended by itself:\n%s", name, h.LogTail(4<<10))
		}
		if err != nil {
			return fmt.Errorf("the daemon of %s: %w:\n%s%s", name, err, r.Stderr, h.LogTail(4<<10))
		}
		pause(ctx)
	}
}

// kill pulls a host's plug.
func (s *Stage) kill(name string) error {
	s.killed = time.Now()
	s.tell.Event("the plug of " + name + " is pulled")
	return s.hosts[name].Kill()
}

// pause waits a moment between two looks.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

// commandPatience bounds every command: ctl must end by itself before it.
const commandPatience = 60 * time.Second

// run types a line on a host.
func (s *Stage) run(ctx context.Context, host, line string) (lab.Result, error) {
	ctx, stop := context.WithTimeoutCause(ctx, commandPatience, fmt.Errorf("it did not end within %v", commandPatience))
	defer stop()
	return s.hosts[host].Shell(ctx, line)
}

// must types a line that has to succeed and print all the words.
func (s *Stage) must(ctx context.Context, host, line string, words ...string) (lab.Result, error) {
	r, err := s.run(ctx, host, line)
	s.tell.Command(host, line, r)
	if err != nil {
		return r, err
	}
	if r.Code != 0 {
		return r, fmt.Errorf("%s on %s: exit code %d: %s", line, host, r.Code, strings.TrimSpace(r.Stderr))
	}
	s.wrong(says(host, line, r, words))
	return r, nil
}

// wrong notes what is not as it must be, when the story can go on: its end will
// say so.
func (s *Stage) wrong(err error) {
	if err != nil {
		s.tell.Event("WRONG: " + err.Error())
		s.faults = append(s.faults, err)
	}
}

// refused types a line that has to be refused in these words.
func (s *Stage) refused(ctx context.Context, host, line string, words ...string) (lab.Result, error) {
	r, err := s.run(ctx, host, line)
	s.tell.Command(host, line, r)
	if err != nil {
		return r, err
	}
	if r.Code != 1 {
		return r, fmt.Errorf("%s on %s: exit code %d, want 1 (refused): %s%s", line, host, r.Code, r.Stdout, r.Stderr)
	}
	s.wrong(says(host, line, r, words))
	return r, nil
}

func says(host, line string, r lab.Result, words []string) error {
	for _, w := range words {
		if !strings.Contains(strings.ToLower(r.Stdout+r.Stderr), strings.ToLower(w)) {
			return fmt.Errorf("%s on %s: printed %q, which does not say %q", line, host, r.Stdout+r.Stderr, w)
		}
	}
	return nil
}

// until types a line again and again until ok likes it, tells of the last, and
// holds the time since began to limit.
func (s *Stage) until(ctx context.Context, host, line, what string, began time.Time, limit time.Duration, ok func(lab.Result) error) error {
	patience := limit + 20*time.Second // to say how late it was, not only that it was
	ctx, stop := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v", patience))
	defer stop()
	var last lab.Result
	var fault error // of the last look that ended
	for {
		r, err := s.run(ctx, host, line)
		if ctx.Err() != nil {
			s.tell.Command(host, line, last)
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), errors.Join(fault, err))
		}
		if err == nil {
			err = ok(r)
		}
		last, fault = r, err
		if took := time.Since(began); err == nil {
			s.tell.Command(host, line, r)
			s.tell.Timed(what, took, limit)
			s.wrong(late(what, took, limit))
			return nil
		}
		pause(ctx)
	}
}

// late says that something took longer than is promised, if it did.
func late(what string, took, limit time.Duration) error {
	if took <= limit {
		return nil
	}
	return fmt.Errorf("%s: took %v, promised within %v", what, took.Round(10*time.Millisecond), limit)
}

// rows parses a table that a command printed, if it succeeded.
func rows(r lab.Result) (table, error) {
	if r.Code != 0 {
		return nil, fmt.Errorf("exit code %d: %s", r.Code, strings.TrimSpace(r.Stderr))
	}
	return parseTable(r.Stdout), nil
}
