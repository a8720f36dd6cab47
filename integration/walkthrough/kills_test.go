//go:build lab

package walkthrough

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// TestContainersOutliveTheirKeepers kills the daemon, its containerd, and both,
// under running containers of a manager and of a worker: no task moves and none
// starts again.
func TestContainersOutliveTheirKeepers(t *testing.T) {
	ctx, s := open(t)
	swarm(ctx, t, s, []string{"dev01", "dev02"}, "worker")
	ready(ctx, t, s, 2)
	typed(ctx, t, s, "dev01", "ctl service create --name still --replicas 4 alpine sleep 1000000", "converged")
	before := tasks(ctx, t, s, "still")
	for _, host := range []string{"dev01", "dev02"} {
		if err := s.note(ctx, host, "sleep"); err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range []string{"dev02", "dev01"} {
		for name, strike := range map[string]func(context.Context, *Stage, string) error{
			"daemon": strikeDaemon, "containerd": strikeContainerd, "both": strikeBoth,
		} {
			t.Logf("== %s of %s", name, host)
			if err := strike(ctx, s, host); err != nil {
				t.Fatal(err)
			}
			ready(ctx, t, s, 2)
			// A fresh task can only start on a host whose containerd is back, so
			// its convergence says that all has settled.
			typed(ctx, t, s, "dev01", "ctl service create --name probe --constraint node.hostname=="+host+" alpine sleep 2000000", "converged")
			typed(ctx, t, s, "dev01", "ctl service rm probe")
			gone(ctx, t, s, host)
			if after := tasks(ctx, t, s, "still"); after != before {
				t.Errorf("tasks after the kill of %s of %s:\n%s\nwere:\n%s", name, host, after, before)
			}
			if err := s.untouched(ctx, host, "sleep"); err != nil {
				t.Error(err)
			}
		}
	}
}

// gone waits until the probe's container has left a host.
func gone(ctx context.Context, t *testing.T, s *Stage, host string) {
	t.Helper()
	err := s.until(ctx, host, "busybox ps -o args | grep '[s]leep 2000000' | wc -l", "the probe is gone", time.Now(), settleLimit,
		func(r lab.Result) error {
			if n := strings.TrimSpace(r.Stdout); n != "0" {
				return fmt.Errorf("%s processes of the probe", n)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
}

func strikeDaemon(ctx context.Context, s *Stage, host string) error {
	if err := s.hosts[host].KillDaemon(ctx); err != nil {
		return err
	}
	return s.serve(ctx, host)
}

func strikeContainerd(ctx context.Context, s *Stage, host string) error {
	return s.hosts[host].KillAll(ctx, "containerd")
}

func strikeBoth(ctx context.Context, s *Stage, host string) error {
	if err := s.hosts[host].KillDaemon(ctx); err != nil {
		return err
	}
	if err := s.hosts[host].KillAll(ctx, "containerd"); err != nil {
		return err
	}
	return s.serve(ctx, host)
}

// revocationLimit is D7's: what a demoted node may do ends within it.
const revocationLimit = time.Second

// TestDemotionRevokesWithinASecond demotes a manager and asks it at once.
func TestDemotionRevokesWithinASecond(t *testing.T) {
	ctx, s := open(t)
	swarm(ctx, t, s, []string{"dev01", "dev02", "dev03"}, "manager", "manager")
	ready(ctx, t, s, 3)
	err := s.until(ctx, "dev03", "ctl node ls", "all three vote", time.Now(), settleLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err == nil && len(got.where("MANAGER STATUS", "Reachable")) != 2 {
			err = fmt.Errorf("%d managers are reachable beside the leader, want 2", len(got.where("MANAGER STATUS", "Reachable")))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	typed(ctx, t, s, "dev01", "ctl node demote dev03", "dev03")
	demoted := time.Now()
	err = s.until(ctx, "dev03", "ctl node ls", "the demoted manager is one no more", demoted, revocationLimit, func(r lab.Result) error {
		if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "not a manager") {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	ready(ctx, t, s, 3) // it goes on as a worker
}
