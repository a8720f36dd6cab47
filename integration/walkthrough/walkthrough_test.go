//go:build lab

package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// binaries is the directory of the ctl under test: SKEP_BIN's, or bin/.
func binaries(t *testing.T) string {
	t.Helper()
	ctl := os.Getenv("SKEP_BIN")
	if ctl == "" {
		ctl = "../../bin/ctl"
	}
	if _, err := os.Stat(ctl); err != nil {
		t.Fatalf("%v: make build", err)
	}
	return filepath.Dir(ctl)
}

// logged tells the story to a test's log.
type logged struct{ t *testing.T }

func (l logged) Step(s Step)       { l.t.Logf("== %s", s.Name) }
func (l logged) Event(text string) { l.t.Logf("   %s", text) }
func (l logged) Timed(what string, took, limit time.Duration) {
	l.t.Logf("   %s: %v (promised within %v)", what, took.Round(time.Millisecond), limit)
}
func (l logged) Command(host, line string, r lab.Result) {
	l.t.Logf("%s$ %s   [%d, %v]\n%s%s", host, line, r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// open makes a stage that is closed with the test, whose daemons' words are
// shown if it fails.
func open(t *testing.T) (context.Context, *Stage) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(stop)
	s, err := Open(ctx, binaries(t), logged{t}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.faults...); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.Logs(16 << 10))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, s
}

func TestTheStoryOfTwoMachinesIsTrue(t *testing.T) {
	ctx, s := open(t)
	if err := s.Play(ctx, Steps()); err != nil {
		t.Fatal(err)
	}
}

func TestTheStoryOfThreeMachinesIsTrue(t *testing.T) {
	ctx, s := open(t)
	if err := s.Play(ctx, StepsOfThree()); err != nil {
		t.Fatal(err)
	}
}

// swarm raises hosts and joins them all: the first inits, the others join by
// their roles.
func swarm(ctx context.Context, t *testing.T, s *Stage, names []string, roles ...string) {
	t.Helper()
	if err := s.Raise(ctx, names...); err != nil {
		t.Fatal(err)
	}
	typed(ctx, t, s, "dev01", "ctl swarm init")
	if err := s.learnTokens(ctx, "dev01"); err != nil {
		t.Fatal(err)
	}
	for i, role := range roles {
		if err := s.Join(ctx, names[i+1], role); err != nil {
			t.Fatal(err)
		}
	}
}

func typed(ctx context.Context, t *testing.T, s *Stage, host, line string, words ...string) lab.Result {
	t.Helper()
	r, err := s.must(ctx, host, line, words...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ready waits until nodes are ready, as the first host sees it.
func ready(ctx context.Context, t *testing.T, s *Stage, count int) {
	t.Helper()
	err := s.until(ctx, "dev01", "ctl node ls", "every node is ready", time.Now(), settleLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err == nil && len(got.where("STATUS", "Ready")) != count {
			err = fmt.Errorf("%d nodes are ready, want %d", len(got.where("STATUS", "Ready")), count)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tasks are the ids and places of a service's rows, history and all.
func tasks(ctx context.Context, t *testing.T, s *Stage, service string) string {
	t.Helper()
	var all []string
	for _, row := range parseTable(typed(ctx, t, s, "dev01", "ctl service ps "+service).Stdout) {
		all = append(all, row["ID"]+" "+row["NAME"]+" "+row["NODE"]+" "+row["DESIRED STATE"])
	}
	return strings.Join(all, "\n")
}
