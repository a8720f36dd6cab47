package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// StepsOfThree is the story of three machines, on a stage of its own.
func StepsOfThree() []Step {
	return []Step{
		{"10. A third host joins directly as a manager", thirdJoins},
		{"11. The leader of three is killed: another leads, and the lost slot runs elsewhere", oneOfThreeKilled},
		{"12. The lost task does not pretend to run", unknownShown},
		{"13. The dead host starts: ready and reachable by itself, and the task's real end is told", thirdBack},
		{"14. Tasks stay where they are; a new service uses all hosts; --force spreads every task", spread},
	}
}

// takeoverLimit is the time from a dark leader to an answer of the next.
const takeoverLimit = 3 * time.Second

var three = []string{"dev01", "dev02", "dev03"}

func thirdJoins(ctx context.Context, s *Stage) error {
	if err := s.Raise(ctx, three...); err != nil {
		return err
	}
	if _, err := s.must(ctx, "dev01", "ctl swarm init"); err != nil {
		return err
	}
	if err := s.learnTokens(ctx, "dev01"); err != nil {
		return err
	}
	if err := s.Join(ctx, "dev02", "worker"); err != nil {
		return err
	}
	if _, err := s.must(ctx, "dev01", "ctl node promote dev02"); err != nil {
		return err
	}
	if err := s.Join(ctx, "dev03", "manager"); err != nil {
		return err
	}
	return s.until(ctx, "dev01", "ctl node ls", "three managers", time.Now(), settleLimit, nodes(
		[]string{"dev01", "STATUS", "Ready", "MANAGER STATUS", "Leader"},
		[]string{"dev02", "STATUS", "Ready", "MANAGER STATUS", "Reachable"},
		[]string{"dev03", "STATUS", "Ready", "MANAGER STATUS", "Reachable"},
	))
}

// spreadOver checks that count tasks of a service run, at least one on each host.
func spreadOver(hosts []string, service string, count int) func(lab.Result) error {
	return func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		run := current(got, service)
		if len(run) != count {
			return fmt.Errorf("%d tasks run, want %d", len(run), count)
		}
		for _, h := range hosts {
			if len(run.where("NODE", h)) == 0 {
				return fmt.Errorf("no task runs on %s", h)
			}
		}
		return nil
	}
}

func oneOfThreeKilled(ctx context.Context, s *Stage) error {
	if _, err := s.must(ctx, "dev01", "ctl service create --name ping --replicas 3 alpine ping gateway", "converged"); err != nil {
		return err
	}
	if err := s.until(ctx, "dev01", "ctl service ps ping", "one task runs on each host", time.Now(), settleLimit, spreadOver(three, "ping", 3)); err != nil {
		return err
	}
	if err := s.kill("dev01"); err != nil {
		return err
	}
	began := time.Now()
	if err := s.until(ctx, "dev02", "ctl node ls", "another manager leads", began, takeoverLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		leaders := got.where("MANAGER STATUS", "Leader")
		if len(leaders) != 1 || leaders[0]["HOSTNAME"] == "dev01" {
			return errors.New("no new leader")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.until(ctx, "dev02", "ctl node ls", "the dead host is told from the living", began, refillLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		row, err := got.one("HOSTNAME", "dev01")
		if err == nil && (row["STATUS"] == "Ready" || row["MANAGER STATUS"] != "Unreachable") {
			err = fmt.Errorf("dev01 is %s and %s", row["STATUS"], row["MANAGER STATUS"])
		}
		return err
	}); err != nil {
		return err
	}
	return s.until(ctx, "dev02", "ctl service ps ping", "the lost slot runs elsewhere", began, refillLimit, spreadOver([]string{"dev02", "dev03"}, "ping", 3))
}

func unknownShown(ctx context.Context, s *Stage) error {
	r, err := s.must(ctx, "dev02", "ctl service ps ping", "Unknown")
	if err != nil {
		return err
	}
	row, err := parseTable(r.Stdout).one("NODE", "dev01")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(row["CURRENT STATE"], "Unknown") || row["DESIRED STATE"] != "Shutdown" {
		return fmt.Errorf("the lost task is %s, desired %s; want Unknown, Shutdown", row["CURRENT STATE"], row["DESIRED STATE"])
	}
	return nil
}

func thirdBack(ctx context.Context, s *Stage) error {
	began := time.Now()
	s.tell.Event("dev01 is started again")
	if err := s.boot(ctx, "dev01"); err != nil {
		return err
	}
	if err := s.until(ctx, "dev02", "ctl node ls", "dev01 is ready and reachable by itself", began, returnLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		row, err := got.one("HOSTNAME", "dev01")
		if err != nil {
			return err
		}
		return cells(row, "STATUS", "Ready", "MANAGER STATUS", "Reachable")
	}); err != nil {
		return err
	}
	var end map[string]string
	if err := s.until(ctx, "dev02", "ctl service ps ping", "the lost task's end is told", began, returnLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		row, err := got.one("NODE", "dev01")
		if err != nil {
			return err
		}
		if strings.HasPrefix(row["CURRENT STATE"], "Unknown") || strings.HasPrefix(row["CURRENT STATE"], "Running") {
			return fmt.Errorf("it is %s", row["CURRENT STATE"])
		}
		end = row
		return nil
	}); err != nil {
		return err
	}
	if !strings.HasPrefix(end["CURRENT STATE"], "Failed") || end["ERROR"] == "" {
		s.wrong(fmt.Errorf("the task that died with its host is %q, error %q; want Failed, and why", end["CURRENT STATE"], end["ERROR"]))
	}
	return nil
}

func spread(ctx context.Context, s *Stage) error {
	r, err := s.must(ctx, "dev02", "ctl service ps ping")
	if err != nil {
		return err
	}
	if n := len(current(parseTable(r.Stdout), "ping").where("NODE", "dev01")); n != 0 {
		return fmt.Errorf("%d tasks moved back to dev01 by themselves", n)
	}
	if _, err := s.must(ctx, "dev02", "ctl service create --name fresh --replicas 3 alpine ping gateway", "converged"); err != nil {
		return err
	}
	if err := s.until(ctx, "dev02", "ctl service ps fresh", "a new service uses all hosts", time.Now(), settleLimit, spreadOver(three, "fresh", 3)); err != nil {
		return err
	}
	if _, err := s.must(ctx, "dev02", "ctl service update --force ping", "converged"); err != nil {
		return err
	}
	return s.until(ctx, "dev02", "ctl service ps ping", "every task is spread", time.Now(), settleLimit, spreadOver(three, "ping", 3))
}
