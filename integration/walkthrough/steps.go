package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// A Step is one thing that the operator does and must see.
type Step struct {
	// Name is the step's number in the story and what it shows.
	Name string
	// Do plays it; an error says what was not as it must be.
	Do func(ctx context.Context, s *Stage) error
}

// What is promised, from the moment the cause happened.
const (
	refusalLimit = 3 * time.Second  // a lost quorum is said, not waited out
	returnLimit  = 15 * time.Second // a host that comes back is a member again
	refillLimit  = 30 * time.Second // a lost slot runs again once there is a quorum
	settleLimit  = 30 * time.Second // a role or a new service is as asked for
)

// leaderless is what the founding document saw, and an operator expects.
const leaderless = "The swarm does not have a leader. It's possible that too few managers are online. " +
	"Make sure more than half of the managers are online."

// Steps is the story of two machines.
func Steps() []Step {
	return []Step{
		{"0. Two hosts run their daemons", raise},
		{"1. A swarm of two: init, join", initAndJoin},
		{"2. Both nodes are listed, and the one that answers is marked", listed},
		{"3. A worker refuses the swarm's commands, and knows its managers", workerRefuses},
		{"4. The worker is promoted, and a warning says what two managers mean", promoted},
		{"5. Managers, and what they agreed on, can be inspected", inspected},
		{"6. A service is created with progress, and runs on both hosts", created},
		{"7. The leader is killed: refused in time and in words, and the other container runs on", leaderKilled},
		{"8. The killed host starts again: nothing has to be typed", leaderBack},
		{"9. The manager that does not lead is killed and comes back: the empty slot is refilled", followerKilled},
		{"9b. The other host never returns: a new cluster is forced and keeps everything", forced},
	}
}

// Play plays steps in order, to the first without which the rest has no sense,
// and says everything that was not as it must be.
func (s *Stage) Play(ctx context.Context, steps []Step) error {
	var all []error
	for _, step := range steps {
		s.tell.Step(step)
		s.faults = nil
		err := step.Do(ctx, s)
		if fault := errors.Join(append(s.faults, err)...); fault != nil {
			all = append(all, fmt.Errorf("step %s: %w", step.Name, fault))
		}
		if err != nil {
			break
		}
	}
	return errors.Join(all...)
}

func raise(ctx context.Context, s *Stage) error {
	began := time.Now()
	if err := s.Raise(ctx, "dev01", "dev02"); err != nil {
		return err
	}
	s.tell.Timed("two hosts and their daemons are up", time.Since(began), daemonPatience)
	return nil
}

func initAndJoin(ctx context.Context, s *Stage) error {
	if _, err := s.must(ctx, "dev01", "ctl swarm init", "Swarm initialized: current node (", "is now a manager", "ctl swarm join --token"); err != nil {
		return err
	}
	if err := s.learnTokens(ctx, "dev01"); err != nil {
		return err
	}
	return s.Join(ctx, "dev02", "worker")
}

// learnTokens asks for the join tokens.
func (s *Stage) learnTokens(ctx context.Context, host string) error {
	for _, role := range []string{"worker", "manager"} {
		r, err := s.must(ctx, host, "ctl swarm join-token -q "+role)
		if err != nil {
			return err
		}
		s.tokens[role] = strings.TrimSpace(r.Stdout)
	}
	return nil
}

// Join joins a host to the swarm of dev01.
func (s *Stage) Join(ctx context.Context, host, role string) error {
	_, err := s.must(ctx, host, "ctl swarm join --token "+s.tokens[role]+" dev01:2377", "This node joined a swarm as a "+role+".")
	return err
}

// nodes is a check of "ctl node ls": every want is a hostname and the cells of
// its row.
func nodes(want ...[]string) func(lab.Result) error {
	return func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d nodes, want %d", len(got), len(want))
		}
		for _, w := range want {
			row, err := got.one("HOSTNAME", w[0])
			if err != nil {
				return err
			}
			if err := cells(row, w[1:]...); err != nil {
				return err
			}
		}
		return nil
	}
}

func listed(ctx context.Context, s *Stage) error {
	return s.until(ctx, "dev01", "ctl node ls", "both nodes are ready", time.Now(), settleLimit, func(r lab.Result) error {
		if err := nodes(
			[]string{"dev01", "STATUS", "Ready", "AVAILABILITY", "Active", "MANAGER STATUS", "Leader"},
			[]string{"dev02", "STATUS", "Ready", "AVAILABILITY", "Active", "MANAGER STATUS", ""},
		)(r); err != nil {
			return err
		}
		lines := regexp.MustCompile(`(?m)^[0-9a-z]{25} \*\s+dev01\s`)
		if !lines.MatchString(r.Stdout) {
			return errors.New("dev01, which answers, is not marked with *")
		}
		return nil
	})
}

func workerRefuses(ctx context.Context, s *Stage) error {
	if _, err := s.refused(ctx, "dev02", "ctl node ls", "this node is not a manager", s.hosts["dev01"].Address().String()+":2377"); err != nil {
		return err
	}
	r, err := s.must(ctx, "dev02", "ctl info", "Swarm: active", "Is Manager: false", "Manager Addresses:",
		s.hosts["dev01"].Address().String()+":2377")
	if strings.Contains(r.Stdout, "ClusterID") {
		s.wrong(errors.New("ctl info on a worker shows what only managers know"))
	}
	return err
}

func promoted(ctx context.Context, s *Stage) error {
	began := time.Now()
	if _, err := s.must(ctx, "dev01", "ctl node promote dev02", "Node dev02 promoted to a manager in the swarm.", "two"); err != nil {
		return err
	}
	return s.until(ctx, "dev01", "ctl node ls", "dev02 is a manager", began, settleLimit, nodes(
		[]string{"dev01", "STATUS", "Ready", "MANAGER STATUS", "Leader"},
		[]string{"dev02", "STATUS", "Ready", "MANAGER STATUS", "Reachable"},
	))
}

func inspected(ctx context.Context, s *Stage) error {
	for host, leads := range map[string]string{"dev01": "Yes", "dev02": "No"} {
		r, err := s.must(ctx, "dev01", "ctl node inspect --pretty "+host, "Manager Status:", s.hosts[host].Address().String()+":2377")
		if err != nil {
			return err
		}
		for _, line := range []string{`Raft Status:\s+Reachable`, `Leader:\s+` + leads} {
			if !regexp.MustCompile(line).MatchString(r.Stdout) {
				s.wrong(fmt.Errorf("inspect of %s has no line like %q", host, line))
			}
		}
	}
	r, err := s.must(ctx, "dev02", "ctl info", "Swarm: active", "NodeID:", "Is Manager: true", "ClusterID:", "Managers: 2", "Nodes: 2",
		"Orchestration:", "Raft:", "Dispatcher:", "CA Configuration:", "Node Address: "+s.hosts["dev02"].Address().String(),
		s.hosts["dev01"].Address().String()+":2377", s.hosts["dev02"].Address().String()+":2377")
	s.cluster = clusterID(r)
	return err
}

func clusterID(r lab.Result) string {
	found := regexp.MustCompile(`ClusterID:\s+(\S+)`).FindStringSubmatch(r.Stdout)
	if found == nil {
		return ""
	}
	return found[1]
}

// pinged is the story's service: two containers that ping what always answers.
const pinged = "ctl service create --name ping --replicas 2 alpine ping gateway"

func created(ctx context.Context, s *Stage) error {
	began := time.Now()
	if _, err := s.must(ctx, "dev01", pinged, "verify: Service", "converged"); err != nil {
		return err
	}
	s.tell.Timed("the service has converged", time.Since(began), settleLimit)
	err := s.until(ctx, "dev01", "ctl service ps ping", "one task runs on each host", began, settleLimit, func(r lab.Result) error {
		got, err := rows(r)
		if err != nil {
			return err
		}
		for _, host := range []string{"dev01", "dev02"} {
			row, err := got.one("NODE", host)
			if err != nil {
				return err
			}
			if !strings.HasPrefix(row["CURRENT STATE"], "Running") || row["DESIRED STATE"] != "Running" {
				return fmt.Errorf("%s is %s, desired %s", row["NAME"], row["CURRENT STATE"], row["DESIRED STATE"])
			}
		}
		return nil
	})
	return errors.Join(err, s.note(ctx, "dev01", "ping"), s.note(ctx, "dev02", "ping"))
}
