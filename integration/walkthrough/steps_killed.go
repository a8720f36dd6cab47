package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// lost shows a lost quorum on the manager that is left: refused within the
// limit, in words, with the name of the one that cannot be reached; the last
// known state on demand; and the container runs on.
func (s *Stage) lost(ctx context.Context, survivor, dead string) error {
	r, err := s.refused(ctx, survivor, "ctl node ls", leaderless, dead)
	if err != nil {
		return err
	}
	s.tell.Timed("the refusal", r.Took, refusalLimit)
	s.wrong(late("the refusal", r.Took, refusalLimit))
	r, err = s.must(ctx, survivor, "ctl node ls --stale", "stale", "dev01", "dev02")
	if err != nil {
		return err
	}
	if _, err := parseTable(r.Stdout).one("HOSTNAME", dead); err != nil {
		return err
	}
	s.wrong(s.untouched(ctx, survivor, "ping"))
	return nil
}

// back gives a host power again and waits until both are ready, whoever leads.
func (s *Stage) back(ctx context.Context, host, ask string) error {
	began := time.Now()
	s.tell.Event(host + " is started again")
	if err := s.boot(ctx, host); err != nil {
		return err
	}
	return s.until(ctx, ask, "ctl node ls", "the swarm is whole", began, returnLimit, func(r lab.Result) error {
		if err := nodes([]string{"dev01", "STATUS", "Ready"}, []string{"dev02", "STATUS", "Ready"})(r); err != nil {
			return err
		}
		got := parseTable(r.Stdout)
		leaders := got.where("MANAGER STATUS", "Leader")
		if len(leaders) != 1 || len(got.where("MANAGER STATUS", "Reachable")) != 1 {
			return errors.New("want one leader and one reachable manager")
		}
		s.leader = leaders[0]["HOSTNAME"]
		return nil
	})
}

// strike pulls the plug of a host, having noted from another what runs there.
func (s *Stage) strike(ctx context.Context, host, witness string) error {
	r, err := s.run(ctx, witness, "ctl service ps ping")
	if err != nil {
		return err
	}
	got, err := rows(r)
	if err != nil {
		return err
	}
	s.doomed = nil
	for _, row := range current(got, "ping").where("NODE", host) {
		s.doomed = append(s.doomed, row["ID"])
	}
	return s.kill(host)
}

func leaderKilled(ctx context.Context, s *Stage) error {
	if err := s.strike(ctx, "dev01", "dev02"); err != nil {
		return err
	}
	return s.lost(ctx, "dev02", "dev01")
}

func leaderBack(ctx context.Context, s *Stage) error {
	if err := s.back(ctx, "dev01", "dev02"); err != nil {
		return err
	}
	s.wrong(s.untouched(ctx, "dev02", "ping"))
	return s.refilled(ctx, "dev02")
}

// refilled waits until both slots run again, and every task that was lost with
// its host tells its end in the history.
func (s *Stage) refilled(ctx context.Context, ask string) error {
	return s.until(ctx, ask, "ctl service ps ping", "the lost slot runs again, with its history", time.Now(), refillLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		for _, id := range s.doomed {
			row, err := got.one("ID", id)
			if err != nil {
				return err
			}
			if state := row["CURRENT STATE"]; !strings.HasPrefix(row["NAME"], `\_ `) || row["DESIRED STATE"] != "Shutdown" ||
				row["ERROR"] == "" || strings.HasPrefix(state, "Running") || strings.HasPrefix(state, "Unknown") {
				return fmt.Errorf("the lost task %s is %s, desired %s, error %q", id, state, row["DESIRED STATE"], row["ERROR"])
			}
		}
		if n := len(current(got, "ping")); n != 2 {
			return fmt.Errorf("%d tasks run, want 2", n)
		}
		return nil
	})
}

// current are the rows of tasks that run and should.
func current(t table, service string) (some table) {
	for _, row := range t.where("CURRENT STATE", "Running") {
		if row["DESIRED STATE"] == "Running" && strings.HasPrefix(row["NAME"], service+".") {
			some = append(some, row)
		}
	}
	return some
}

func followerKilled(ctx context.Context, s *Stage) error {
	dead := map[string]string{"dev01": "dev02", "dev02": "dev01"}[s.leader]
	if err := s.note(ctx, s.leader, "ping"); err != nil {
		return err
	}
	survivor := s.leader
	if err := s.strike(ctx, dead, survivor); err != nil {
		return err
	}
	if err := s.lost(ctx, survivor, dead); err != nil {
		return err
	}
	if err := s.back(ctx, dead, survivor); err != nil {
		return err
	}
	s.wrong(s.untouched(ctx, survivor, "ping"))
	return s.refilled(ctx, survivor)
}

func forced(ctx context.Context, s *Stage) error {
	const survivor, dead = "dev02", "dev01"
	if err := s.kill(dead); err != nil {
		return err
	}
	before, err := s.processes(ctx, survivor, "ping")
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := s.must(ctx, survivor, "ctl swarm init --force-new-cluster"); err != nil {
		return err
	}
	if err := s.until(ctx, survivor, "ctl node ls", "the forced cluster has a leader", began, returnLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		row, err := got.one("HOSTNAME", survivor)
		if err != nil {
			return err
		}
		return cells(row, "STATUS", "Ready", "MANAGER STATUS", "Leader")
	}); err != nil {
		return err
	}
	if err := s.kept(ctx, survivor); err != nil {
		return err
	}
	if err := s.until(ctx, survivor, "ctl service ps ping", "both slots run on what is left", began, refillLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err == nil && len(current(got, "ping").where("NODE", survivor)) != 2 {
			err = fmt.Errorf("%d tasks run on %s, want 2", len(current(got, "ping").where("NODE", survivor)), survivor)
		}
		return err
	}); err != nil {
		return err
	}
	after, err := s.processes(ctx, survivor, "ping")
	if err == nil && !strings.Contains(" "+after+" ", " "+strings.Fields(before + " ?")[0]+" ") {
		err = fmt.Errorf("the container that ran before is gone: %s, now %s", before, after)
	}
	return err
}

// kept checks that a forced cluster has the ids, tokens and services of before.
func (s *Stage) kept(ctx context.Context, host string) error {
	err := s.until(ctx, host, "ctl info", "the forced cluster is active", time.Now(), returnLimit, func(r lab.Result) error {
		if got := clusterID(r); got != s.cluster || got == "" {
			return fmt.Errorf("the cluster's id is %q, was %q", got, s.cluster)
		}
		return says(host, "ctl info", r, []string{"Swarm: active", "Is Manager: true", "Managers: 1"})
	})
	if err != nil {
		return err
	}
	for _, role := range []string{"worker", "manager"} {
		r, err := s.must(ctx, host, "ctl swarm join-token -q "+role)
		if err != nil {
			return err
		}
		if strings.TrimSpace(r.Stdout) != s.tokens[role] {
			s.wrong(fmt.Errorf("the %s token has changed", role))
		}
	}
	_, err = s.must(ctx, host, "ctl service ls", "ping")
	return err
}
