//go:build lab

package many

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// TestThreeManagers is the life of three managers that take a snapshot every
// hundred entries, so that one who misses a few writes needs to be sent one.
func TestThreeManagers(t *testing.T) {
	s := raise(t, "--snapshot-interval 100", "m1", "m2", "m3")
	s.Must("m1", "ctl service create --quiet --name still --replicas 3 alpine sleep 1000000")
	s.fill()
	s.stay("still", s.behind)
	s.stay("still", s.allMoved)
	s.leaderPaused("still")
	s.eachLost()
	s.cut("still", 3)
}

// fill makes the state some megabytes large, so that a snapshot takes a while.
func (s *swarm) fill() {
	s.Helper()
	s.Must("m1", `long=$(busybox head -c 100000 /dev/zero | busybox tr '\0' x)
		for n in 1 2 3 4; do ctl service create --quiet --detach --replicas 0 --name large$n $(for i in 1 2 3 4 5 6; do echo --label l$i=$long; done) alpine true || exit 1; done`)
}

// eachLost makes each of three dark in turn, the leader first.
func (s *swarm) eachLost() {
	s.Helper()
	first := s.leader("m1")
	for _, name := range append([]string{first}, s.others(first)...) {
		s.writing(s.others(name)...)
		s.more(5)
		s.dark(name)
		s.more(5)
		s.back(name)
		s.rested(name + " dark")
	}
}

// taken counts the snapshots that a host's daemons took over from a leader.
func (s *swarm) taken(host string) int {
	s.Helper()
	text, err := os.ReadFile(s.Hosts[host].DaemonLog())
	if err != nil {
		s.Fatal(err)
	}
	return strings.Count(string(text), "snapshot of the leader taken over")
}

// behind has a follower miss more than the log holds: it is brought up by a
// snapshot while writes go on, over a good link, over one that loses packets,
// and again after it was killed while it received one.
func (s *swarm) behind() {
	s.Helper()
	lead := s.leader("m1")
	late := s.others(lead)[0]
	s.writing(s.others(late)...)
	for _, how := range []string{"a good link", "a link that loses one packet in ten", "a death while it receives it"} {
		s.more(1)
		before, began := s.taken(late), time.Now()
		if err := s.Hosts[late].KillDaemon(s.Ctx); err != nil {
			s.Fatal(err)
		}
		s.more(130) // by each of two
		missed := time.Since(began)
		began = time.Now()
		if how == "a link that loses one packet in ten" {
			if err := s.Lab.Loss(s.Ctx, s.Hosts[lead], s.Hosts[late], lab.Both, 10); err != nil {
				s.Fatal(err)
			}
		}
		if err := s.Hosts[late].Daemon(s.Ctx); err != nil {
			s.Fatal(err)
		}
		if how == "a death while it receives it" {
			s.receives(late)
			if err := cmp.Or(s.Hosts[late].KillDaemon(s.Ctx), s.Hosts[late].Daemon(s.Ctx)); err != nil {
				s.Fatal(err)
			}
		}
		s.whole(late)
		s.known(late)
		if err := s.Lab.Heal(s.Ctx); err != nil {
			s.Fatal(err)
		}
		n := s.taken(late) - before
		s.Logf("== %s missed writes for %v and was back within %v by %d snapshots, by way of %s", late,
			missed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), n, how)
		if n == 0 {
			s.Errorf("%s was not sent a snapshot", late)
		}
	}
	s.rested("a follower falls behind")
}

// receives waits until a host has a part of a snapshot.
func (s *swarm) receives(host string) {
	s.Helper()
	ctx, stop := context.WithTimeout(s.Ctx, patience)
	defer stop()
	for {
		parts, err := filepath.Glob(filepath.Join(s.Hosts[host].Dir(), "state/raft/snap/*.new"))
		if err != nil {
			s.Fatal(err)
		}
		for _, part := range parts {
			if info, err := os.Stat(part); err == nil && info.Size() > 0 {
				s.Logf("== %s is killed with %d bytes of a snapshot", host, info.Size())
				return
			}
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s receives no snapshot", host)
		case <-time.After(time.Millisecond):
		}
	}
}

// leaderPaused stops the leader's host for longer than a lease. Its task is
// replaced, once. When it goes on it finds itself deposed and takes nobody for
// lost; what it had taken in has one end.
func (s *swarm) leaderPaused(service string) {
	s.Helper()
	lead := s.leader("m1")
	rest := s.others(lead)
	tasks, containers := strings.Fields(s.tasks(service)), s.containers()
	s.writing(s.names...)
	s.more(5)
	if err := s.Hosts[lead].Pause(); err != nil {
		s.Fatal(err)
	}
	s.more(5, lead)
	s.Until(rest[0], `ctl node ls --format '{{.Hostname}} {{.Status}}' | grep -v Ready`, lead+" Down")
	s.up(rest, service, len(s.names))
	if err := s.Hosts[lead].Resume(); err != nil {
		s.Fatal(err)
	}
	s.more(5)
	s.whole(lead)
	s.Until(lead, "busybox pidof sleep", "")
	if now := s.leader(rest[0]); now == lead {
		s.Errorf("%s leads again though it was deposed", lead)
	}
	s.rested("the leader paused")
	s.up(rest, service, len(s.names))
	if now := strings.Fields(s.tasks(service)); len(now) != len(tasks)+1 {
		s.Errorf("tasks %v, were %v: want one more", now, tasks)
	}
	for name, now := range s.containers() {
		if name != lead && !strings.Contains(now, strings.TrimSpace(containers[name])) {
			s.Errorf("containers of %s are processes %q, were %q", name, now, containers[name])
		}
	}
}

// allMoved moves one manager after the other, while the others are written to.
func (s *swarm) allMoved() {
	s.Helper()
	for _, name := range s.names {
		s.writing(s.others(name)...)
		s.more(5)
		s.move(name)
		s.more(5)
		s.rested(name + " moved")
	}
}
