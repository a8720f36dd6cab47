//go:build lab

package many

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// TestFiveManagers is the life of five managers, each of which runs a task.
func TestFiveManagers(t *testing.T) {
	s := raise(t, "", "m1", "m2", "m3", "m4", "m5")
	s.Must("m1", "ctl service create --quiet --name still --replicas 5 --replicas-max-per-node 1 alpine sleep 1000000")
	s.stay("still", s.turned)
	s.stay("still", s.rolled)
	s.stay("still", s.twoMoved)
	s.twoLost()
	s.cut("still", 5)
}

// turned promotes and demotes in quick succession.
func (s *swarm) turned() {
	s.Helper()
	began := time.Now()
	// Several at once, the leader among them.
	s.atOnce("m2$ ctl node demote m4", "m3$ ctl node demote m5", "m3$ ctl node demote m1")
	s.Until("m2", "ctl info", " Managers: 2")
	s.atOnce("m2$ ctl node promote m4 m1", "m3$ ctl node promote m5")
	s.whole("m2")
	// The same one, back and forth, by several who do not wait for each other.
	for range 3 {
		s.atOnce("m1$ ctl node promote --detach m4", "m2$ ctl node demote --detach m4", "m3$ ctl node promote --detach m4",
			"m2$ ctl node demote --detach m5 && ctl node promote --detach m5")
	}
	s.Must("m2", "ctl node promote m4 m5")
	s.whole("m4")
	s.Logf("== turned within %v", time.Since(began).Round(time.Millisecond))
}

// rolled restarts every daemon under load, in order and then with SIGKILL.
func (s *swarm) rolled() {
	s.Helper()
	for _, how := range []struct {
		name string
		end  func(*lab.Host, context.Context) error
	}{{"stopped", (*lab.Host).StopDaemon}, {"killed", (*lab.Host).KillDaemon}} {
		began := time.Now()
		s.writing(s.names...)
		s.more(10)
		for _, name := range s.names {
			if err := how.end(s.Hosts[name], s.Ctx); err != nil {
				s.Fatal(err)
			}
			if err := s.Hosts[name].Daemon(s.Ctx); err != nil {
				s.Fatal(err)
			}
			s.whole(name)
			s.more(1)
			s.known(name)
		}
		s.rested("every daemon " + how.name)
		s.Logf("== all daemons %s within %v", how.name, time.Since(began).Round(time.Millisecond))
	}
}

// twoLost makes two of five dark at the same moment, the leader one of them, and
// then the leader and, as soon as there is one, its successor.
func (s *swarm) twoLost() {
	s.Helper()
	first := s.leader("m1")
	second := s.others(first)[0]
	s.writing(s.others(first, second)...)
	s.more(10)
	s.dark(first, second)
	s.more(10)
	s.back(first, second)
	s.more(1)
	s.rested(fmt.Sprintf("%s and %s dark at once", first, second))

	first = s.leader("m1")
	rest := s.others(first)
	s.dark(first)
	s.Until(rest[0], `ctl node ls --format '{{.ManagerStatus}}'`, "Leader")
	second = s.leader(rest[0])
	rest = s.others(first, second)
	s.writing(rest...)
	s.more(10)
	s.dark(second)
	s.more(10)
	s.back(first, second)
	s.rested(fmt.Sprintf("%s dark and its successor %s too", first, second))
}

// cut is a power cut of the whole site, amid writes: all that was acknowledged
// is there when the power is, and everything runs again with nothing typed.
func (s *swarm) cut(service string, replicas int) {
	s.Helper()
	s.up(s.names, service, replicas)
	s.writing(s.names...)
	s.more(20)
	s.dark(s.names...)
	began := time.Now()
	s.boot(s.names...)
	s.Until(s.names[0], `ctl node ls --format '{{.ManagerStatus}}'`, "Leader")
	s.Logf("== power cut: a leader %v after the power is back", time.Since(began).Round(time.Millisecond))
	s.whole(s.names[0])
	s.Logf("== power cut: all managers after %v", time.Since(began).Round(time.Millisecond))
	s.up(s.names, service, replicas)
	s.Logf("== power cut: %d tasks run after %v", replicas, time.Since(began).Round(time.Millisecond))
	s.rested("all dark at once")
}
