//go:build lab

package many

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skep-project/skep/integration/stage"
	"github.com/skep-project/skep/internal/lab"
)

// A host's init is this program, so a host can run it again as a writer.
func TestMain(m *testing.M) {
	lab.Init()
	if len(os.Args) == 4 && os.Args[1] == writerWord {
		os.Exit(write(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// A swarm is managers on lab hosts.
type swarm struct {
	*stage.Stage
	names   []string
	writers []*writer
	moves   int // addresses that were given out
}

// patience bounds the waits of this package.
const patience = 40 * time.Second

// raise makes hosts whose daemons run, and a swarm of them: the first founds it,
// all others join it as managers at once.
func raise(t *testing.T, flags string, names ...string) *swarm {
	t.Helper()
	s := &swarm{Stage: stage.Hosts(t, names...), names: names}
	s.Must(names[0], "ctl swarm init "+flags)
	token := strings.TrimSpace(s.Must(names[0], "ctl swarm join-token -q manager"))
	began := time.Now()
	s.each(names[1:], func(ctx context.Context, h *lab.Host) error {
		return typed(ctx, h, "ctl swarm join --token "+token+" "+names[0]+":2377")
	})
	s.whole(names[0])
	t.Logf("== %d managers joined at once within %v", len(names)-1, time.Since(began).Round(time.Millisecond))
	return s
}

// each does something to several hosts at the same time.
func (s *swarm) each(names []string, do func(context.Context, *lab.Host) error) {
	s.Helper()
	ctx, stop := context.WithTimeoutCause(s.Ctx, patience, fmt.Errorf("not within %v", patience))
	defer stop()
	var all errgroup.Group
	for _, name := range names {
		all.Go(func() error { return do(ctx, s.Hosts[name]) })
	}
	if err := all.Wait(); err != nil {
		s.Fatal(err)
	}
}

// atOnce types lines, each with its host before it, at the same time.
func (s *swarm) atOnce(lines ...string) {
	s.Helper()
	ctx, stop := context.WithTimeoutCause(s.Ctx, patience, fmt.Errorf("not within %v", patience))
	defer stop()
	var all errgroup.Group
	for _, l := range lines {
		host, line, _ := strings.Cut(l, "$ ")
		all.Go(func() error { return typed(ctx, s.Hosts[host], line) })
	}
	if err := all.Wait(); err != nil {
		s.Fatal(err)
	}
}

// typed runs a line that must succeed.
func typed(ctx context.Context, h *lab.Host, line string) error {
	r, err := h.Shell(ctx, line)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s$ %s: exit code %d: %s%s", h.Name(), line, r.Code, r.Stdout, r.Stderr)
	}
	return err
}

// whole waits until every host is a ready manager that the leader hears.
func (s *swarm) whole(ask string) {
	s.Helper()
	s.Until(ask, managers, fmt.Sprintf("%d voters", len(s.names)))
}

// managers counts the ready managers, whoever leads.
const managers = `ctl node ls | awk '/ Ready .* (Leader|Reachable)/ { n++ } / Leader/ { l++ } END { print n, l == 1 ? "voters" : "and no leader" }'`

// leader is the host that leads, as another one knows.
func (s *swarm) leader(ask string) string {
	s.Helper()
	return strings.TrimSpace(s.Must(ask, `ctl node ls --format '{{.Hostname}} {{.ManagerStatus}}' | awk '$2 == "Leader" { print $1 }'`))
}

// others are the managers without some.
func (s *swarm) others(without ...string) []string {
	return slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return slices.Contains(without, n) })
}

// containers names the container processes of all hosts by pid and start time,
// so that one that was restarted cannot pass for the same.
func (s *swarm) containers() map[string]string {
	s.Helper()
	out := map[string]string{}
	for _, name := range s.names {
		out[name] = s.Must(name, `for p in $(busybox pidof sleep); do busybox awk '{ print $1 "@" $22 }' /proc/$p/stat; done | sort`)
	}
	return out
}

// tasks are the ids of all tasks that a service ever had and still remembers.
func (s *swarm) tasks(service string) string {
	s.Helper()
	lines := strings.Fields(s.Must(s.names[0], "ctl service ps -q --no-trunc "+service))
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// up waits until so many tasks of a service run on hosts: as those do, for the
// swarm may still say it of containers that died with their host, and as it says.
func (s *swarm) up(hosts []string, service string, count int) {
	s.Helper()
	ctx, stop := context.WithTimeoutCause(s.Ctx, patience, fmt.Errorf("not within %v", patience))
	defer stop()
	for {
		found := 0
		for _, name := range hosts {
			pids, err := s.Hosts[name].Pids(ctx, "sleep")
			if err != nil {
				s.Fatal(err)
			}
			found += len(pids)
		}
		if found >= count {
			break
		}
		select {
		case <-ctx.Done():
			s.Errorf("%d containers of %s run, want %d: %v", found, service, count, context.Cause(ctx))
			for _, look := range []string{"ctl service ps --no-trunc " + service, "ctl node ls", "ctl events --since 2m --until 0s --filter type=node"} {
				s.Must(hosts[0], look)
			}
			s.FailNow()
		case <-time.After(100 * time.Millisecond):
		}
	}
	s.Until(hosts[0], fmt.Sprintf(`ctl service ps --filter desired-state=running %s | grep -c ' Running '`, service), fmt.Sprint(count)+"\n")
}

// stay runs a story through which no task may move and no container end.
func (s *swarm) stay(service string, story func()) {
	s.Helper()
	tasks, containers := s.tasks(service), s.containers()
	story()
	if got := s.tasks(service); got != tasks {
		s.Errorf("tasks %s, were %s", got, tasks)
	}
	for name, got := range s.containers() {
		if got != containers[name] {
			s.Errorf("containers of %s are processes %q, were %q", name, got, containers[name])
		}
	}
}

// boot gives hosts power and starts their daemons.
func (s *swarm) boot(names ...string) {
	s.Helper()
	s.each(names, func(ctx context.Context, h *lab.Host) error {
		return cmp.Or(h.Boot(ctx), h.Daemon(ctx))
	})
}

// back boots hosts and waits until each is a manager among all the others, by
// its own word: what others say of it may be from before.
func (s *swarm) back(names ...string) {
	s.Helper()
	s.boot(names...)
	for _, name := range names {
		s.whole(name)
	}
}

// dark pulls the plugs of hosts at the same moment.
func (s *swarm) dark(names ...string) {
	s.Helper()
	s.Logf("== dark: %v", names)
	s.each(names, func(_ context.Context, h *lab.Host) error { return h.Kill() })
}
