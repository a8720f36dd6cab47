//go:build lab

package many

import (
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/integration/stage"
)

// TestClocks is the life of a swarm whose hosts do not agree about the time.
func TestClocks(t *testing.T) {
	s := &swarm{Stage: stage.Hosts(t, "m1", "m2", "m3", "w1"), names: []string{"m1", "m2", "m3"}}
	s.Must("m1", "ctl swarm init")
	for host, role := range map[string]string{"m2": "manager", "m3": "manager", "w1": "worker"} {
		s.Must(host, "ctl swarm join --token "+strings.TrimSpace(s.Must("m1", "ctl swarm join-token -q "+role))+" m1:2377")
	}
	s.whole("m1")
	s.Must("m1", "ctl service create --quiet --name still --replicas 4 --replicas-max-per-node 1 alpine sleep 1000000")
	s.stay("still", func() {
		s.leaderStepped(time.Hour)
		s.delaysEnd("ahead")
		s.leaderStepped(-time.Hour)
		s.delaysEnd("behind")
		s.followerStepped(24 * time.Hour)
		s.followerStepped(-30 * time.Minute)
		s.followerBehind()
		s.workerStepped()
	})
	s.kept()
	s.workerRefuses()
}

// kept is that no connection broke: what a host does by its monotonic clock is not
// touched by what its time of day is set to.
func (s *swarm) kept() {
	s.Helper()
	for name, h := range s.Hosts {
		for line := range strings.Lines(h.LogTail(1 << 20)) {
			if strings.Contains(line, "keepalive") || strings.Contains(line, "connection timed out") {
				s.Errorf("%s took a peer for dead: %s", name, line)
			}
		}
	}
}

func (s *swarm) step(host string, d time.Duration) {
	s.Helper()
	s.Logf("== the clock of %s is now %v off", host, d)
	if err := s.Hosts[host].StepClock(s.Ctx, d); err != nil {
		s.Fatal(err)
	}
}

// leaderStepped steps the leader's clock. It notices, hands leadership on, and
// says why; nobody else calls for an election. Writes go on all the time.
func (s *swarm) leaderStepped(d time.Duration) {
	s.Helper()
	lead := s.leader("m1")
	next := s.others(lead)[0]
	s.writing(s.names...)
	s.more(5)
	s.step(lead, d)
	s.more(5)
	s.Until(next, `ctl node ls --format '{{.Hostname}} {{.ManagerStatus}}' | grep -c -v '^`+lead+` Leader' | grep -q 4 && echo handed on`, "handed on")
	if said := s.Hosts[lead].LogTail(1 << 20); !strings.Contains(said, "this leader's clock is not that of the other managers") {
		s.Errorf("%s handed leadership on and did not say why", lead)
	}
	s.more(5)
	s.step(lead, 0)
	s.more(5)
	s.rested("the leader's clock stepped by " + d.String())
	s.whole(next)
}

// followerStepped steps a follower's clock: nothing changes.
func (s *swarm) followerStepped(d time.Duration) {
	s.Helper()
	lead := s.leader("m1")
	s.writing(s.names...)
	s.step(s.others(lead)[0], d)
	s.more(400) // the leader has looked at clocks twice meanwhile
	s.step(s.others(lead)[0], 0)
	s.more(5)
	s.rested("a follower's clock stepped by " + d.String())
	if now := s.leader("m1"); now != lead {
		s.Errorf("%s leads, it was %s: a follower's clock is nobody's affair", now, lead)
	}
}

// followerBehind has a follower's clock be a day behind: it makes the connections
// anew that gRPC gives up, though certificates are not valid yet by its clock, and
// the swarm and the host itself say whose clock it is.
func (s *swarm) followerBehind() {
	s.Helper()
	lead := s.leader("m1")
	late := s.others(lead)[0]
	s.writing(s.names...)
	s.step(late, -24*time.Hour)
	s.Until(lead, "ctl node inspect --pretty "+late, "behind the swarm's, by what manager")
	s.Until(late, "ctl info", "behind the swarm's, by what manager")
	s.more(400)
	s.step(late, 0)
	s.Until(late, "ctl info | grep -c Clock: || true", "0")
	s.whole(late)
	s.rested("a follower's clock a day behind")
	if now := s.leader("m1"); now != lead {
		s.Errorf("%s leads, it was %s", now, lead)
	}
}

// delaysEnd has a task fail again and again: each is followed after the delay,
// though log time is off.
func (s *swarm) delaysEnd(name string) {
	s.Helper()
	s.Must("m1", "ctl service create --quiet --detach --restart-delay 1s --name "+name+" alpine sh -c 'exit 1'")
	s.Until("m1", "test $(ctl service ps -q "+name+" | wc -l) -ge 4 && echo followed", "followed")
	s.Must("m1", "ctl service rm "+name)
}

// workerStepped steps a worker's clock both ways, for longer than a lease: it has
// a session, or another at once, and what it runs goes on.
func (s *swarm) workerStepped() {
	s.Helper()
	for _, d := range []time.Duration{24 * time.Hour, -30 * time.Minute} {
		s.step("w1", d)
		for range 2 { // five seconds each
			s.Must("m1", "ctl service create --quiet --name there --constraint node.hostname==w1 alpine sleep 999999")
			s.Must("m1", "ctl service rm there")
		}
		s.Until("m1", "ctl node ls --format '{{.Hostname}} {{.Status}}'", "w1 Ready")
		s.step("w1", 0)
	}
}

// workerRefuses has a worker's clock be past the end of managers' certificates, for
// longer than a lease. The session it has goes on; when its cable was out it gets no
// other, says why, and says how far it is off though no manager serves it.
func (s *swarm) workerRefuses() {
	s.Helper()
	s.step("w1", 8*24*time.Hour)
	s.Until("m1", "ctl node inspect --pretty w1", "ahead of the swarm's, by what manager")
	if err := s.Hosts["w1"].Unplug(); err != nil {
		s.Fatal(err)
	}
	s.Until("m1", "ctl node ls --format '{{.Hostname}} {{.Status}}'", "w1 Down")
	s.Until("w1", "ctl info 2>&1", "no session with a manager for") // a shorter cut breaks no connection
	if err := s.Hosts["w1"].Plug(); err != nil {
		s.Fatal(err)
	}
	s.Until("w1", "ctl info", "and the clock here says")
	s.Until("w1", "ctl info", "ahead of the swarm's, by what manager")
	s.step("w1", 0)
	s.Until("m1", "ctl node ls --format '{{.Hostname}} {{.Status}}'", "w1 Ready")
}
