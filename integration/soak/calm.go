package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/integration/fleet"
	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// calmTime bounds the time from the last fault to a swarm that is whole: a lease
// and what was put off, on a machine that runs all hosts at once.
const calmTime = 90 * time.Second

// wanted are the services that run, by name, and how many containers each has;
// 0 is one for each node.
var wanted = map[string]int{"some": 6, "each": 0}

// whole waits until the swarm is whole again: every manager says that every node
// is ready, all managers say the same of every task, and what they say is what
// lives.
func whole(ctx context.Context, f *fleet.Fleet) error {
	if err := f.Whole(ctx, calmTime); err != nil {
		return err
	}
	return fleet.Until(ctx, calmTime, func(ctx context.Context) error {
		for name, replicas := range wanted {
			if replicas == 0 {
				replicas = len(f.Members)
			}
			if err := converged(ctx, f, name, replicas); err != nil {
				return err
			}
		}
		return nil
	})
}

// converged says what keeps a service from running as it should.
func converged(ctx context.Context, f *fleet.Fleet, service string, replicas int) error {
	alive := map[string]string{} // task: host
	slots := map[string]bool{}
	for _, p := range f.Processes() {
		if p.Service == service {
			alive[p.Task], slots[p.Slot] = p.Host, true
		}
	}
	if len(alive) != replicas || len(slots) != replicas {
		return fmt.Errorf("%s: %d containers live in %d slots, want %d", service, len(alive), len(slots), replicas)
	}
	var first []*controlv1.TaskView
	for i, m := range f.Managers() {
		tasks, err := m.Tasks(ctx, service)
		if err != nil {
			return fmt.Errorf("ask %s: %w", m.Name(), err)
		}
		if running := runs(tasks); !maps.Equal(running, alive) {
			return fmt.Errorf("%s: %s says that %v run, and %v live", service, m.Name(), running, alive)
		}
		if i == 0 {
			first = tasks
		}
		if !slices.EqualFunc(tasks, first, func(a, b *controlv1.TaskView) bool { return proto.Equal(a.GetTask(), b.GetTask()) }) {
			return fmt.Errorf("%s: %s and %s do not say the same of its tasks", service, m.Name(), f.Managers()[0].Name())
		}
	}
	return nil
}

// runs are the tasks that are said to run, with the hosts they are said to run on.
func runs(tasks []*controlv1.TaskView) map[string]string {
	out := map[string]string{}
	for _, t := range tasks {
		x, err := id.FromBytes(t.GetTask().GetId())
		if err != nil {
			continue // it is then missing, and that is seen
		}
		if t.GetTask().GetStatus().GetState() == modelv1.TaskState_TASK_STATE_RUNNING && t.GetUnknownSince() == 0 {
			out[x.String()] = t.GetNodeName()
		}
	}
	return out
}

// complaints are what no daemon may ever say.
var complaints = []string{"panic:", "fatal error:", "DATA RACE", "goroutine stack exceeds"}

// clean says which daemon said something that it may never say.
func clean(f *fleet.Fleet) error {
	for _, m := range f.Members {
		said := m.LogTail(1 << 30)
		for _, c := range complaints {
			if at := strings.Index(said, c); at >= 0 {
				return fmt.Errorf("the daemon of %s said %q:\n%s", m.Name(), c, said[at:min(len(said), at+3000)])
			}
		}
	}
	return nil
}
