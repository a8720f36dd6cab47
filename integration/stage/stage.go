// Package stage is a swarm on lab hosts for a story told as a test: hosts whose
// daemons run, and commands typed on them. What was typed and answered is in the
// test's log; a test that failed shows its daemons' last words.
//
// A test that uses it calls lab.Init first thing in its TestMain.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skep-project/skep/internal/lab"
)

// patience bounds every wait; nothing here takes half of it.
const patience = 30 * time.Second

// A Stage is hosts whose daemons run.
type Stage struct {
	*testing.T
	// Ctx ends with the test, or after five minutes.
	Ctx   context.Context //nolint:containedctx // a test's
	Lab   *lab.Lab
	Hosts map[string]*lab.Host
}

// Raise makes hosts, starts their daemons, and makes the first one a swarm.
func Raise(t *testing.T, names ...string) *Stage {
	t.Helper()
	s := Hosts(t, names...)
	s.Must(names[0], "ctl swarm init")
	return s
}

// Hosts makes hosts whose daemons run and are in no swarm.
func Hosts(t *testing.T, names ...string) *Stage {
	t.Helper()
	s := Bare(t, names...)
	var all errgroup.Group
	for _, h := range s.Hosts {
		all.Go(func() error { return errors.Join(h.Boot(s.Ctx), h.Daemon(s.Ctx)) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	for name := range s.Hosts {
		s.Until(name, "ctl info", "Swarm: inactive")
	}
	return s
}

// Bare makes hosts that are dark and have nothing on them yet.
func Bare(t *testing.T, names ...string) *Stage {
	t.Helper()
	ctl := os.Getenv("SKEP_BIN")
	if ctl == "" {
		ctl = "../../bin/ctl"
	}
	if _, err := os.Stat(ctl); err != nil {
		t.Fatalf("%v: make build", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(stop)
	l, err := lab.New(ctx, lab.Config{Bin: filepath.Dir(ctl)})
	if err != nil {
		t.Fatal(err)
	}
	s := &Stage{T: t, Ctx: ctx, Lab: l, Hosts: map[string]*lab.Host{}}
	t.Cleanup(func() {
		for name, h := range s.Hosts {
			if t.Failed() {
				t.Logf("--- daemon of %s\n%s", name, h.LogTail(4<<10))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range names {
		h, err := l.Host(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Hosts[name] = h
	}
	return s
}

// Run types a line on a host.
func (s *Stage) Run(host, line string) lab.Result {
	s.Helper()
	ctx, stop := context.WithTimeoutCause(s.Ctx, patience, fmt.Errorf("it did not end within %v", patience))
	defer stop()
	r, err := s.Hosts[host].Shell(ctx, line)
	s.Logf("%s$ %s   [%d, %v]\n%s%s", host, line, r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// Must types a line that has to succeed and print the words.
func (s *Stage) Must(host, line string, words ...string) string {
	s.Helper()
	return s.Ends(host, line, 0, words...)
}

// Ends types a line that has to end with the code and print the words.
func (s *Stage) Ends(host, line string, code int, words ...string) string {
	s.Helper()
	r := s.Run(host, line)
	if r.Code != code {
		s.Fatalf("%s: exit code %d, want %d", line, r.Code, code)
	}
	for _, w := range words {
		if !strings.Contains(r.Stdout+r.Stderr, w) {
			s.Errorf("%s: it does not say %q", line, w)
		}
	}
	return r.Stdout
}

// Until types a line until it prints the words, and nothing else if they are "".
func (s *Stage) Until(host, line, words string) {
	s.Helper()
	ctx, stop := context.WithTimeout(s.Ctx, patience)
	defer stop()
	for {
		r, err := s.Hosts[host].Shell(ctx, line)
		if err == nil && (words == "" && r.Stdout == "" || words != "" && strings.Contains(r.Stdout, words)) {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s$ %s: %v: it says %q, want %q", host, line, context.Cause(ctx), r.Stdout+r.Stderr, words)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
