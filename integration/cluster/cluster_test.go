//go:build lab

package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// join joins a host by the token of a role.
func (s *swarm) join(host, role, through string) {
	s.Helper()
	token := strings.TrimSpace(s.Must(through, "ctl swarm join-token -q "+role))
	s.Must(host, "ctl swarm join --token "+token+" "+through+":2377", "as a "+role)
}

// again ends a host's daemon with SIGKILL and starts it.
func (s *swarm) again(host string) {
	s.Helper()
	if err := s.Hosts[host].KillDaemon(s.Ctx); err != nil {
		s.Fatal(err)
	}
	s.serve(host)
}

func (s *swarm) serve(host string) {
	s.Helper()
	if err := s.Hosts[host].Daemon(s.Ctx); err != nil {
		s.Fatal(err)
	}
	s.Until(host, "ctl info", "Swarm:")
}

// row prints what a host's row says behind its name, and nothing if there is none.
func row(host string) string {
	return `ctl node ls | sed 's/ \* /   /' | grep '  ` + host + `  ' | tr -s ' '`
}

// TestAMemberIsKilledWhileItTurns kills a node's daemon at random moments of its
// way to a manager and back: it always gets there, and its container stays.
func TestAMemberIsKilledWhileItTurns(t *testing.T) {
	s := raise(t, "m1", "w1")
	s.join("w1", "worker", "m1")
	s.Must("m1", "ctl service create --name still --constraint node.hostname==w1 alpine sleep 1000000", "converged")
	pid := s.Must("w1", "busybox pidof sleep")
	for range 6 {
		for _, turn := range []struct {
			command string
			most    time.Duration
			becomes string
		}{{"promote", 2500 * time.Millisecond, "Ready Active Reachable"}, {"demote", 300 * time.Millisecond, "Ready Active dev"}} {
			after := rand.N(turn.most)
			s.Must("m1", "ctl node "+turn.command+" --detach w1")
			<-time.After(after)
			t.Logf("== SIGKILL %v after the %s", after, turn.command)
			s.again("w1")
			s.Until("m1", row("w1"), turn.becomes[:strings.LastIndex(turn.becomes, " ")])
			if turn.command == "promote" {
				s.Until("m1", row("w1"), turn.becomes)
			} else {
				s.Until("w1", "ctl info", "Is Manager: false")
			}
		}
	}
	if got := s.Must("w1", "busybox pidof sleep"); got != pid {
		t.Errorf("the container is process %q, was %q", got, pid)
	}
}

// TestANodeThatLeftJoinsAgainAndIsStartedAgain: what it is then must be on its
// disk, and not in the memory of the daemon that left.
func TestANodeThatLeftJoinsAgainAndIsStartedAgain(t *testing.T) {
	s := raise(t, "m1", "w1")
	s.join("w1", "worker", "m1")
	s.Must("w1", "ctl swarm leave", "left the swarm")
	s.Until("m1", row("w1"), "Down")
	s.Must("m1", "ctl node rm w1")
	s.join("w1", "worker", "m1")
	s.again("w1")
	s.Until("w1", "ctl info", "Swarm: active")
	// One that leaves on its way to a vote leaves nothing in the group.
	s.Must("m1", "ctl node promote --detach w1")
	s.Until("m1", "ctl node inspect m1 w1", `"Voter": false`)
	s.Must("w1", "ctl swarm leave --force", "left the swarm")
	s.Until("m1", "ctl info", " Managers: 1")
}

// TestAManagerComesBackAtAnotherAddress moves one of two managers, whose
// group has no quorum until it is heard and answered there.
func TestAManagerComesBackAtAnotherAddress(t *testing.T) {
	s := raise(t, "m1", "m2")
	s.join("m2", "manager", "m1")
	old := s.Hosts["m2"].Address().String()
	next := old[:strings.LastIndex(old, ".")] + ".200"
	if err := s.Hosts["m2"].KillDaemon(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.Must("m2", "busybox ip addr add "+next+"/24 dev eth0 && busybox ip addr del "+old+"/24 dev eth0 && busybox ip addr replace "+next+"/24 dev eth0")
	s.serve("m2")
	s.Until("m1", "ctl node inspect m2", next+":2377")
	s.Until("m1", row("m2"), "Ready Active Reachable")
	s.Must("m2", "ctl node update --label-add at=home m1")
}

// TestADirectoryThatWentBackIsRefusedAndCured puts back an older copy of a
// manager's log: it takes no part, says what to do, and that is what cures it.
func TestADirectoryThatWentBackIsRefusedAndCured(t *testing.T) {
	s := raise(t, "m1", "m2", "m3")
	s.join("m2", "manager", "m1")
	s.join("m3", "manager", "m1")
	s.Must("m1", "ctl service create --name still --constraint node.hostname==m3 alpine sleep 1000000", "converged")
	pid := s.Must("m3", "busybox pidof sleep")
	if err := s.Hosts["m3"].KillDaemon(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.Must("m3", "cp -a /var/lib/skep/raft /var/lib/skep/copy")
	s.serve("m3")
	s.Until("m1", row("m3"), "Ready Active Reachable")
	s.Must("m1", "for i in 1 2 3 4; do ctl node update --label-add y=$i m3; done")
	s.Until("m3", "ctl node inspect m3", `"y": "4"`)
	if err := s.Hosts["m3"].KillDaemon(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.Must("m3", "rm -rf /var/lib/skep/raft && mv /var/lib/skep/copy /var/lib/skep/raft")
	s.serve("m3")
	s.Until("m3", "ctl info", "it must rejoin")
	s.Must("m1", "ctl node demote m3", "demoted")
	s.Must("m1", "ctl node promote m3", "promoted")
	s.Until("m3", "ctl node ls", "Leader")
	if got := s.Must("m3", "busybox pidof sleep"); got != pid {
		t.Errorf("the container is process %q, was %q", got, pid)
	}
}
