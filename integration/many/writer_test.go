//go:build lab

package many

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/lab"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

const (
	// writerWord is the first argument of this program as a writer on a host.
	writerWord = "write"
	// writerKeys is how many labels a writer uses in turn. It checks more often
	// than it comes round, so no lost write hides behind a later one.
	writerKeys = 256
	// writerRest is the pause between the end of a write and the next.
	writerRest = 15 * time.Millisecond
)

// write is a writer on a host: it sets labels of a node one after another until
// it is asked to end, and says of each write how it went and how long it took.
func write(node, prefix string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	api := conn.New(say.Streams{Out: os.Stdout, Err: os.Stderr}.Filled(), []conn.Host{{Path: filepath.Join(conn.DefaultRunDir, "ctl.sock")}})
	defer api.Close()
	for i := 1; ctx.Err() == nil; i++ {
		fmt.Printf("%d try\n", i)
		began := time.Now()
		err := writeOne(api, node, key(prefix, i), fmt.Sprint(i))
		fmt.Printf("%d took %d %v\n", i, time.Since(began).Microseconds(), err)
		select {
		case <-ctx.Done():
		case <-time.After(writerRest):
		}
	}
	return 0
}

func key(prefix string, i int) string { return fmt.Sprintf("%s%d", prefix, i%writerKeys) }

func writeOne(api *conn.Conn, node, key, value string) error {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	_, err := conn.Change(ctx, api, controlv1.ControlClient.UpdateNode, &controlv1.UpdateNodeRequest{
		RequestId: conn.RequestID(), Ref: node, LabelsAdd: map[string]string{key: value},
	})
	return err
}

// A writer is one that runs, or ran, on a host.
type writer struct {
	host         string
	node, prefix string
	notes        string // the file of what it said
	proc         *lab.Proc
}

// account is what a writer's notes say.
type account struct {
	acked   map[string]int // by key, the last that was acknowledged
	tried   int
	acks    int
	failed  []string
	longest time.Duration
}

// writing has a writer run on each of some hosts, each on the record of the
// first manager: that is where they would get in each other's way.
func (s *swarm) writing(hosts ...string) {
	s.Helper()
	for _, name := range hosts {
		w := &writer{host: name, node: s.names[0], prefix: fmt.Sprintf("w%d-", len(s.writers))}
		out, err := os.Create(filepath.Join(s.TempDir(), "notes"))
		if err == nil {
			w.notes = out.Name()
			w.proc, err = s.Hosts[name].Spawn(s.Ctx, out, "/proc/1/exe", writerWord, w.node, w.prefix)
		}
		if err != nil {
			s.Fatal(err)
		}
		_ = out.Close()
		s.writers = append(s.writers, w)
	}
}

// account reads a writer's notes.
func (w *writer) account() (a account, err error) {
	text, err := os.ReadFile(w.notes)
	a.acked = map[string]int{}
	for line := range strings.Lines(string(text)) {
		var i, micros int
		if _, e := fmt.Sscanf(line, "%d try\n", &i); e == nil {
			a.tried = i
			continue
		}
		if _, e := fmt.Sscanf(line, "%d took %d", &i, &micros); e != nil {
			return a, fmt.Errorf("writer %s says %q", w.prefix, line)
		}
		a.longest = max(a.longest, time.Duration(micros)*time.Microsecond)
		if !strings.HasSuffix(line, " <nil>\n") {
			a.failed = append(a.failed, line)
			continue
		}
		a.acked[key(w.prefix, i)], a.acks = i, a.acks+1
	}
	return a, err
}

// known checks that what was acknowledged to any writer is known to whoever is
// asked through some managers, and that nothing is known that was not tried.
func (s *swarm) known(through ...string) {
	s.Helper()
	for _, via := range through {
		before := s.accounts() // what is acknowledged before the question is in its answer
		labels := s.labels(via)
		after := s.accounts()
		for i := range s.writers {
			for k, least := range before[i].acked {
				var got int
				_, _ = fmt.Sscan(labels[k], &got) // 0 if it is not there
				if got < least || got > after[i].tried {
					s.Errorf("through %s: label %s is %q; %d was acknowledged, %d tried", via, k, labels[k], least, after[i].tried)
				}
			}
		}
	}
}

func (s *swarm) accounts() []account {
	s.Helper()
	var out []account
	for _, w := range s.writers {
		a, err := w.account()
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// labels are those of the record that is written, by a read through a manager.
func (s *swarm) labels(via string) map[string]string {
	s.Helper()
	r, err := s.Hosts[via].Shell(s.Ctx, "ctl node inspect "+s.names[0])
	if err != nil || r.Code != 0 {
		s.Fatalf("inspect through %s: %v %s", via, err, r.Stderr)
	}
	var nodes []struct {
		Spec struct{ Labels map[string]string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &nodes); err != nil || len(nodes) != 1 {
		s.Fatalf("inspect through %s: %v: %s", via, err, r.Stdout)
	}
	return nodes[0].Spec.Labels
}

// more waits until every running writer, but for those on some hosts, has been
// answered so many times more.
func (s *swarm) more(n int, without ...string) {
	s.Helper()
	from := s.accounts()
	ctx, stop := context.WithTimeout(s.Ctx, patience)
	defer stop()
	for i, w := range s.writers {
		for w.runs() && !slices.Contains(without, w.host) {
			now, err := w.account()
			if err != nil || now.acks >= from[i].acks+n {
				break
			}
			select {
			case <-ctx.Done():
				s.Fatalf("writer %s on %s has %d answers of %d more", w.prefix, w.host, now.acks-from[i].acks, n)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func (w *writer) runs() bool {
	select {
	case <-w.proc.Done():
		return false
	default:
		return true
	}
}

// rested ends the writers, checks what they were told, and says how it went. A
// write that failed for good is one too many.
func (s *swarm) rested(what string) {
	s.Helper()
	for _, w := range s.writers {
		if w.runs() {
			if err := w.proc.Signal(s.Ctx, syscall.SIGTERM); err != nil {
				s.Fatal(err)
			}
			if _, err := w.proc.Wait(s.Ctx); err != nil {
				s.Fatal(err)
			}
		}
	}
	for i, a := range s.accounts() {
		s.Logf("== %s: writer %s: %d of %d writes acknowledged, the longest took %v", what, s.writers[i].prefix, a.acks, a.tried, a.longest.Round(time.Millisecond))
		if len(a.failed) > 0 {
			s.Errorf("%s: writer %s: %d writes failed, first %s", what, s.writers[i].prefix, len(a.failed), a.failed[0])
		}
	}
	s.known(s.names...)
	s.writers = nil
	s.Must(s.names[0], "ctl node update $(for i in $(busybox seq 0 255); do for w in 0 1 2 3 4; do echo --label-rm w$w-$i; done; done) "+s.names[0])
}
