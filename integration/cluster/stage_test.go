//go:build lab

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// patience bounds every wait; nothing here takes half of it.
const patience = 30 * time.Second

// A stage is hosts whose daemons run.
type stage struct {
	*testing.T
	ctx   context.Context //nolint:containedctx // a test's
	hosts map[string]*lab.Host
}

// raise makes hosts, starts their daemons, and makes the first one a swarm.
func raise(t *testing.T, names ...string) *stage {
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
	s := &stage{T: t, ctx: ctx, hosts: map[string]*lab.Host{}}
	t.Cleanup(func() {
		for name, h := range s.hosts {
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
		if err == nil {
			err = h.Boot(ctx)
		}
		if err == nil {
			err = h.Daemon(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.hosts[name] = h
	}
	for name := range s.hosts {
		s.until(name, "ctl info", "Swarm: inactive")
	}
	s.must(names[0], "ctl swarm init")
	return s
}

// run types a line on a host.
func (s *stage) run(host, line string) lab.Result {
	s.Helper()
	ctx, stop := context.WithTimeoutCause(s.ctx, patience, fmt.Errorf("it did not end within %v", patience))
	defer stop()
	r, err := s.hosts[host].Shell(ctx, line)
	s.Logf("%s$ %s   [%d, %v]\n%s%s", host, line, r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// must types a line that has to succeed and print the words.
func (s *stage) must(host, line string, words ...string) string {
	s.Helper()
	return s.ends(host, line, 0, words...)
}

// ends types a line that has to end with the code and print the words.
func (s *stage) ends(host, line string, code int, words ...string) string {
	s.Helper()
	r := s.run(host, line)
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

// until types a line until it prints the words, and nothing else if they are "".
func (s *stage) until(host, line, words string) {
	s.Helper()
	ctx, stop := context.WithTimeout(s.ctx, patience)
	defer stop()
	for {
		r, err := s.hosts[host].Shell(ctx, line)
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
