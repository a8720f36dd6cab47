//go:build lab

package cluster

import (
	"os"
	"strings"
	"testing"
)

// desk begins each line typed where no daemon runs: contexts are kept in the
// host's own /run, for the lab's hosts share the home of the machine.
const desk = "export XDG_CONFIG_HOME=/run/desk; "

// plain boots a host without a daemon.
func (s *swarm) plain(name string) {
	s.Helper()
	h, err := s.Lab.Host(name)
	if err == nil {
		err = h.Boot(s.Ctx)
	}
	if err != nil {
		s.Fatal(err)
	}
	s.Hosts[name] = h
}

// carry copies a file to the same place on another host, past the log.
func (s *swarm) carry(path, from, to string) {
	s.Helper()
	data, err := os.ReadFile(s.Hosts[from].Inside(path))
	if err == nil {
		err = os.WriteFile(s.Hosts[to].Inside(path), data, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// answers names the manager whose answers the desk gets: the row with the star.
func (s *swarm) answers() string {
	s.Helper()
	for line := range strings.Lines(s.Must("desk", desk+"ctl node ls", "m1", "m2", "m3", "Leader")) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "*" {
			return f[2]
		}
	}
	s.Fatal("no manager answers")
	return ""
}

// TestASwarmIsUsedFromADeskThatIsInNone makes users, uses the swarm as them from
// a host without a daemon while managers die, and removes one.
func TestASwarmIsUsedFromADeskThatIsInNone(t *testing.T) {
	s := managers(t, "m1", "m2", "m3")
	s.plain("desk")
	s.Must("m1", "ctl user create anna --role admin -o /run/anna.ctx", "user anna (admin) until", "ctl context create NAME --from /run/anna.ctx")
	s.Must("m1", "ctl user create vic --role viewer --ttl 1h -o /run/vic.ctx", "user vic (viewer) until")
	s.Ends("m1", "ctl user create vic -o /run/again.ctx", 1, "user vic already exists", "ctl user renew vic")
	s.Must("m1", "ls -l /run/*.ctx | cut -c1-10; test ! -e /run/again.ctx", "-rw-------")
	s.carry("/run/anna.ctx", "m1", "desk")
	s.carry("/run/vic.ctx", "m1", "desk")

	s.Ends("desk", desk+"ctl node ls", 3, "no daemon answers", "a context reaches managers elsewhere")
	s.Ends("desk", desk+"ctl --host tcp://m1 node ls", 2, "there is no context", "ctl context create NAME --from FILE")
	s.Must("desk", desk+"ctl context create prod --from /run/anna.ctx && ctl context create look --from /run/vic.ctx && ctl context use prod")
	s.Must("desk", desk+"ctl context ls", "prod *", "anna", "vic", "admin", "viewer", "in 8 hours")
	answers := s.answers()
	s.Must("desk", desk+"ctl service create --name web --replicas 2 alpine sleep 1000000", "converged")
	s.Must("m3", "ctl events --since 5m --until 0s --filter service=web --filter event=create", "web")

	s.Must("desk", desk+"ctl --context look service ls", "web", "2/2")
	s.Ends("desk", desk+"ctl --context look service scale web=3", 1, "vic", "viewer", "operator")
	s.Ends("desk", desk+"ctl --context look swarm join-token worker", 1, "vic", "viewer", "admin")
	s.Ends("desk", desk+"ctl --context look user ls", 1, "vic", "viewer", "admin")

	s.dies(answers)
	s.Must("desk", desk+"ctl service scale web=3", "converged")

	s.Must("desk", desk+"ctl user ls", "anna", "vic")
	s.Must("desk", desk+"ctl user rm vic", "vic")
	s.Ends("desk", desk+"ctl --context look service ls", 1, "vic")
	if next := s.answers(); next == answers {
		t.Errorf("%s is dead and answers", next)
	} else {
		s.Must(next, "ctl user rm anna", "anna")
	}
	s.Ends("desk", desk+"ctl node ls", 1, "anna")
	s.Must("desk", desk+"ctl context rm prod look", "prod", "look")
	s.serve(answers)
}
