//go:build lab

package cluster

import (
	"strings"
	"testing"
	"time"
)

// dies ends a host's daemon with SIGKILL.
func (s *swarm) dies(host string) {
	s.Helper()
	if err := s.Hosts[host].KillDaemon(s.Ctx); err != nil {
		s.Fatal(err)
	}
}

// managers raises so many managers, m1 and on, that all vote.
func managers(t *testing.T, names ...string) *swarm {
	t.Helper()
	s := raise(t, names...)
	for _, host := range names[1:] {
		s.join(host, "manager", "m1")
	}
	for _, host := range names {
		s.Until("m1", row(host), "Ready")
	}
	return s
}

// background runs a line on a host until it ends by itself, and leaves what it
// said and its exit code in files of that name.
func (s *swarm) background(host, name, line string) {
	s.Helper()
	s.Must(host, "(("+line+") >/tmp/"+name+".out 2>&1; echo exit $? >/tmp/"+name+".end) </dev/null >/dev/null 2>&1 &")
}

// TestAWaitAndAReaderOutliveTheirManager restarts the daemon that serves a wait
// and a reader of events, and kills the leader behind it: both go on, the wait to
// its end, and the reader misses nothing and says nothing twice.
func TestAWaitAndAReaderOutliveTheirManager(t *testing.T) {
	s := managers(t, "m1", "m2", "m3")
	s.background("m2", "events", "ctl events --since @0 --timeout 2m --format json --filter type=service --filter type=node")
	s.background("m2", "wait", "ctl service create --name slow --constraint node.labels.disk==ssd alpine sleep 1000000")
	s.Until("m1", "ctl service ps slow --no-trunc", "no suitable node among 3 (3 do not satisfy node.labels.disk==ssd)")
	s.Until("m2", "cat /tmp/events.out", `"Action":"create"`) // it reads
	s.again("m2")                                             // the daemon that answers
	s.dies("m1")                                              // the leader
	s.Until("m2", "ctl node ls", "Leader")
	s.Until("m3", "ctl node update --label-add disk=ssd m3 && echo labelled", "labelled")
	s.Until("m2", "cat /tmp/wait.end", "exit 0")
	s.Must("m2", "cat /tmp/wait.out", "verify: Service converged")
	s.Until("m2", "cat /tmp/events.out", `"Action":"leader"`)
	s.Until("m2", "cat /tmp/events.out", `"label.disk.new":"ssd"`)
	seen := map[string]bool{}
	for line := range strings.Lines(s.Must("m2", "cat /tmp/events.out")) {
		if seen[line] {
			t.Errorf("told twice: %s", line)
		}
		seen[line] = true
	}
	whole := s.Must("m2", "ctl events --since @0 --until 0s --format json --filter type=service --filter type=node")
	for line := range strings.Lines(whole) {
		if !seen[line] && !strings.Contains(line, `"reset"`) {
			t.Errorf("not told to who read on: %s", line)
		}
	}
	s.dies("m2")
	s.serve("m2")
	s.serve("m1")
}

// TestALostQuorumIsRefusedInWords with three and five managers: within three
// seconds, naming who is missing; --stale shows the last state.
func TestALostQuorumIsRefusedInWords(t *testing.T) {
	for _, names := range [][]string{{"m1", "m2", "m3"}, {"m1", "m2", "m3", "m4", "m5"}} {
		s := managers(t, names...)
		gone := names[len(names)/2:]
		for _, host := range gone {
			s.dies(host)
		}
		s.Until("m1", "ctl info", "In Contact With The Quorum: false")
		for _, line := range []string{"ctl node ls", "ctl service create --detach alpine true", "ctl events"} {
			begin := time.Now()
			said := s.Ends("m1", line, 1, append([]string{"The swarm does not have a leader", "unreachable managers:"}, gone...)...)
			if took := time.Since(begin); took > 3500*time.Millisecond {
				t.Errorf("%s took %v to be refused: %s", line, took, said)
			}
		}
		s.Must("m1", "ctl node ls --stale", append([]string{"stale"}, names...)...)
		s.Must("m1", "ctl info", append([]string{"Unreachable Managers:"}, gone...)...)
		for _, host := range gone {
			s.serve(host)
		}
		s.Until("m1", "ctl node ls", "Leader")
		s.Until("m1", "ctl events --since 5m --until 0s", "node leader")
	}
}

// TestStatesAndReasonsAreTrue types what an operator types when something is
// wrong, while it is.
func TestStatesAndReasonsAreTrue(t *testing.T) {
	s := raise(t, "m1", "w1", "w2", "w3")
	for _, host := range []string{"w1", "w2", "w3"} {
		s.join(host, "worker", "m1")
		s.Until("m1", row(host), "Ready")
	}
	s.Must("m1", "ctl node update --label-add disk=ssd w3")
	s.Must("m1", "ctl service create --name all --mode global alpine sleep 1000000", "converged")
	s.Must("m1", "ctl node update --availability drain w1")
	s.Must("m1", "ctl node update --availability pause m1")
	s.dies("w2")
	s.Until("m1", row("w2"), "Unknown Active")
	s.Must("m1", "ctl node inspect --pretty w2", "Unknown", "session broken", "Not heard since")
	s.Must("m1", "ctl service create --detach --name one --constraint node.labels.disk==hdd alpine sleep 1000000")
	s.Until("m1", "ctl service ps one --no-trunc", "no suitable node among 4 (1 is not heard, 1 is paused, 1 is drained, 1 does not satisfy node.labels.disk==hdd)")
	s.Until("m1", row("w2"), "Down Active")
	s.Must("m1", "ctl node inspect w2", `"State": "down"`, `"LostSince"`)
	s.Until("m1", "ctl service ps one --no-trunc", "(1 is down, 1 is paused")
	s.Must("m1", "ctl node ps w2 --no-trunc", "Unknown")
	s.Must("m1", "ctl service create --detach --name big --reserve-memory 4000GiB alpine sleep 1000000")
	s.Until("m1", "ctl service ps big --no-trunc", "1 has less than 3.906TiB of memory free")
	s.Must("m1", "ctl service create --detach --name max --replicas 2 --replicas-max-per-node 1 alpine sleep 1000000")
	s.Until("m1", "ctl service ps max --no-trunc", "1 holds its one replica already")
	s.Must("m1", "ctl node rm w2", "w2")
	s.Until("m1", "ctl service ps one --no-trunc", "no suitable node among 3")
	s.Must("m1", "ctl events --since 10m --until 0s", "node unknown", "node down", "session broken",
		"availability.new=drain", "task pending", "node remove", "service create")
	s.Must("m1", "ctl events --since 10m --until 0s --filter node=w2 --filter event=down --format '{{.Actor.Attributes.name}} {{.Reason}}'", "w2 no beat for ")
}
