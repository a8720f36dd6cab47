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
		for _, blow := range []struct {
			name   string
			strike func(context.Context, *Stage, string) error
		}{{"daemon", strikeDaemon}, {"containerd", strikeContainerd}, {"both", strikeBoth}} {
			t.Logf("== SIGKILL: %s of %s", blow.name, host)
			if err := blow.strike(ctx, s, host); err != nil {
				t.Fatal(err)
			}
			ready(ctx, t, s, 2)
			probe(ctx, t, s, host, "probe-"+blow.name+"-"+host)
			if after := tasks(ctx, t, s, "still"); after != before {
				t.Errorf("tasks after the kill of %s of %s:\n%s\nwere:\n%s", blow.name, host, after, before)
			}
			if err := s.untouched(ctx, host, "sleep"); err != nil {
				t.Error(err)
			}
		}
	}
}

// probe runs a service on a host and removes it: a fresh task can only start,
// and go, where the daemon and its containerd are back, so all has settled.
func probe(ctx context.Context, t *testing.T, s *Stage, host, name string) {
	t.Helper()
	typed(ctx, t, s, "dev01", "ctl service create --name "+name+" --stop-grace-period 100ms --constraint node.hostname=="+host+
		" alpine tail -f /dev/null", "converged")
	typed(ctx, t, s, "dev01", "ctl service rm "+name)
	err := s.until(ctx, host, "busybox pidof tail || true", "the probe is gone", time.Now(), settleLimit,
		func(r lab.Result) error {
			if pids := strings.TrimSpace(r.Stdout); pids != "" {
				return fmt.Errorf("the probe runs as process %s", pids)
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
