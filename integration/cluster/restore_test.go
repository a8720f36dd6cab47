//go:build lab

package cluster

import (
	"strings"
	"testing"
)

// A pair of keys that nothing but this story is sealed to.
const (
	recipient = "age10485grkaaph0kq8e88jk6jypr07amq3czxdrsgh5hmdpfy3dzghq3z778p"
	identity  = "AGE-SECRET-KEY-1VU2K8G0DZ0QX42SHP4436K0CJCC0RP5AEGQHDHLDQT4QJWTQ2EQSSUSV8X"
)

// TestALostSwarmComesUpOnAnotherHost loses every manager, brings the swarm up
// from a backup at another address, and takes its worker there: the containers
// that the backup knows run on, and services are run again.
func TestALostSwarmComesUpOnAnotherHost(t *testing.T) {
	s := raise(t, "m1", "w1", "r1")
	s.join("w1", "worker", "m1")
	s.Must("m1", "ctl service create --name web --replicas 2 --constraint node.role==worker alpine sleep 1000000", "converged")
	pids := s.Must("w1", "busybox pidof sleep")
	saved := strings.TrimSpace(s.Must("m1", "ctl swarm backup --recipient "+recipient+" - | busybox base64 | busybox tr -d '\\n'"))
	if err := s.Hosts["m1"].KillDaemon(s.Ctx); err != nil {
		t.Fatal(err)
	}

	s.Must("r1", "umask 077; echo "+identity+" > /run/key; echo "+saved+" | busybox base64 -d > /run/swarm.backup")
	s.Must("r1", "ctl swarm backup verify --identity /run/key /run/swarm.backup", "this swarm comes up from it", "2/2")
	out := s.Must("r1", "ctl swarm restore --identity /run/key /run/swarm.backup", "Swarm restored", "1 service and 2 tasks")
	var join string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(strings.TrimSpace(line), "ctl swarm join ") {
			join = strings.TrimSpace(line)
		}
	}
	s.Must("w1", join, "in touch with the managers again")
	s.Until("r1", row("w1"), "Ready")
	s.Until("r1", "ctl service ls --format '{{.Name}} {{.Replicas}}'", "web 2/2")
	if got := s.Must("w1", "busybox pidof sleep"); got != pids {
		t.Errorf("the containers are processes %q, were %q", got, pids)
	}
	s.Must("r1", "ctl service scale web=3", "converged")
	s.again("w1") // it knows its manager by itself now
	s.Until("r1", row("w1"), "Ready")
	s.Until("r1", row("m1"), "Down")
	s.Must("r1", "ctl node rm m1")
	s.Must("r1", "ctl service ps web")
}
