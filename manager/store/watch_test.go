package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func ready(w *Watch) bool {
	select {
	case <-w.C():
		return true
	default:
		return false
	}
}

func TestAWatchHearsItsKeysAndNoOthers(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1))
	for name, tt := range map[string]struct {
		key  Key
		want bool
	}{
		"the task":                   {Key{Kind: KindTask, ID: task1}, true},
		"another task":               {Key{Kind: KindTask, ID: task2}, false},
		"all tasks":                  {Key{Kind: KindTask}, true},
		"tasks of its service":       {KeyTasksOfService(web), true},
		"tasks of another service":   {KeyTasksOfService(db), false},
		"work of its node":           {KeyWorkOfNode(node1), false},
		"its service":                {Key{Kind: KindService, ID: web}, false},
		"its node, the object":       {Key{Kind: KindNode, ID: node1}, false},
		"tasks of the service as id": {Key{Kind: KindTask, ID: web}, false},
	} {
		w := s.Watch(tt.key)
		must(t, s, opDelete(KindTask, task2.Bytes())) // nothing
		if ready(w) {
			t.Errorf("%s: woken for nothing", name)
		}
		st := s.Snapshot().Task(task1).Observed
		must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: st + 1}))
		changes, reset := w.Take()
		if got := ready(w); got != tt.want || (len(changes) == 1) != tt.want || reset {
			t.Errorf("%s: woken %v with %v reset %v, want %v", name, got, changes, reset, tt.want)
		}
		w.Close()
	}
	if len(s.hub.byKey) != 0 {
		t.Errorf("closed watches are still kept: %v", s.hub.byKey)
	}
}

// TestANodesWorkIsWhatIsDecided: a session is not woken by what its own node says.
func TestANodesWorkIsWhatIsDecided(t *testing.T) {
	t.Parallel()
	s := small(t)
	w, other := s.Watch(KeyWorkOfNode(node1)), s.Watch(KeyWorkOfNode(node2))
	defer w.Close()
	defer other.Close()
	tell := func(what string, want bool, ops ...*logv1.Operation) {
		t.Helper()
		must(t, s, ops...)
		if changes, _ := w.Take(); ready(w) != want || (len(changes) == 1) != want {
			t.Errorf("%s: told of %v, want %v", what, changes, want)
		}
	}
	tell("a task that is placed on it", true, opTask(task1, web, node1, 1))
	tell("what it says of the task", false, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running}))
	tell("a task that is to stop", true, opDecide(&logv1.Decide{Task: task1.Bytes(), Desired: taskstate.Shutdown}))
	tell("that it has", false, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Shutdown}))
	tell("a task that is forgotten", true, opDelete(KindTask, task1.Bytes()))
	if changes, _ := other.Take(); len(changes) > 0 {
		t.Errorf("another node's work is told of: %v", changes)
	}
}

func TestAWatchWithSeveralKeysHearsAChangeOnce(t *testing.T) {
	t.Parallel()
	s := small(t)
	w := s.Watch(KeyWorkOfNode(node1), KeyTasksOfService(web), Key{Kind: KindTask}, Key{Kind: KindRevision, ID: web})
	defer w.Close()
	must(t, s, opTask(task1, web, node1, 1), opRevision(web, 2))
	changes, _ := w.Take()
	if len(changes) != 2 || changes[0].Kind != KindTask || changes[1].Kind != KindRevision || changes[1].Service != web {
		t.Errorf("changes = %+v, want one of the task, one of the revision", changes)
	}
	must(t, s, opDelete(KindTask, task1.Bytes()))
	changes, _ = w.Take()
	if len(changes) != 1 || !changes[0].Deleted || changes[0].Service != web || changes[0].Node != node1 || changes[0].ID() != task1 {
		t.Errorf("tombstone = %+v", changes)
	}
}

func TestARefusedUnitTellsNothing(t *testing.T) {
	t.Parallel()
	s := small(t)
	w := s.Watch(Key{Kind: KindService})
	defer w.Close()
	if err := step(s, opService(web, "x"), opRelease("k", "a", web)); err == nil {
		t.Fatal("want a conflict")
	}
	if changes, _ := w.Take(); len(changes) != 0 || ready(w) {
		t.Errorf("told of %v", changes)
	}
}

func TestAFullWatchSaysReset(t *testing.T) {
	t.Parallel()
	s := small(t)
	w := s.Watch(Key{Kind: KindNode, ID: node1})
	defer w.Close()
	for range maxQueue + 1 {
		must(t, s, opNode(node1))
	}
	if changes, reset := w.Take(); !reset || len(changes) != 0 {
		t.Errorf("Take = %d changes, reset %v; want a reset", len(changes), reset)
	}
	must(t, s, opNode(node1))
	if changes, reset := w.Take(); reset || len(changes) != 1 {
		t.Errorf("after the reset: %d changes, reset %v; want 1", len(changes), reset)
	}
}

func TestAnInstalledSnapshotResetsWatches(t *testing.T) {
	t.Parallel()
	s, other := small(t), full(t)
	o := &observed{}
	s.Observe(o)
	w := s.Watch(Key{Kind: KindTask, ID: num(12345)})
	defer w.Close()
	if err := s.Restore(bytes.NewReader(encoded(t, other.Snapshot()))); err != nil {
		t.Fatal(err)
	}
	if _, reset := w.Take(); !reset || !ready(w) {
		t.Error("the watch was not reset")
	}
	if want := []string{"restored at 4"}; !slices.Equal(o.steps, want) {
		t.Errorf("observed %q, want %q", o.steps, want)
	}
}

// observed notes what an observer is told.
type observed struct{ steps []string }

func (o *observed) Published(before, after *Snapshot, changes []Change) {
	step := fmt.Sprintf("%d to %d:", before.Index(), after.Index())
	for _, c := range changes {
		step += " " + kindName(c.Kind)
	}
	o.steps = append(o.steps, step)
}

func (o *observed) Restored(now *Snapshot) {
	o.steps = append(o.steps, fmt.Sprintf("restored at %d", now.Index()))
}

func TestAnObserverSeesEveryStepWhole(t *testing.T) {
	t.Parallel()
	s := small(t)
	o := &observed{}
	s.Observe(o)
	must(t, s, opTask(task1, web, node1, 1), opNode(node2))
	must(t, s)
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running}))
	must(t, s, &logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "node", Action: "leader"}}})
	want := []string{"1 to 2: task node", "3 to 4: task", "4 to 5: note"}
	if !slices.Equal(o.steps, want) {
		t.Errorf("observed %q, want %q", o.steps, want)
	}
}

func TestANoteOfADroppedUnitIsNotTold(t *testing.T) {
	t.Parallel()
	s := small(t)
	o := &observed{}
	s.Observe(o)
	note := &logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "node", Action: "leader"}}}
	s.ApplyProto(2, 0, []*logv1.Transaction{{Units: []*logv1.Unit{
		{Operations: []*logv1.Operation{note, opClaim(ClaimServiceName, "web", web), opClaim(ClaimServiceName, "web", web)}},
	}}})
	if len(o.steps) != 0 {
		t.Errorf("observed %q, want nothing", o.steps)
	}
}

// TestTakeGivesIndexesWhole has a reader take while entries of several changes
// are applied: it never sees part of one, nor a snapshot older than a change.
func TestTakeGivesIndexesWhole(t *testing.T) {
	t.Parallel()
	s := small(t)
	w := s.Watch(Key{Kind: KindNode})
	defer w.Close()
	const entries, each = 200, 7
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for range entries {
			ops := slices.Repeat([]uint64{1}, each)
			index := s.Snapshot().Index() + 1
			u := unit()
			for range ops {
				u.Operations = append(u.Operations, opNode(node1))
			}
			s.apply(index, 0, []*logv1.Transaction{transaction(u)})
		}
	})
	seen := 0
	take := func() {
		changes, _ := w.Take()
		if len(changes)%each != 0 {
			t.Errorf("took %d changes, want whole entries of %d", len(changes), each)
		}
		if n := len(changes); n > 0 && s.Snapshot().Index() < changes[n-1].Index {
			t.Errorf("told of entry %d, the snapshot is at %d", changes[n-1].Index, s.Snapshot().Index())
		}
		seen += len(changes)
	}
	for running := true; running; {
		select {
		case <-w.C():
			take()
		case <-done:
			running = false
		}
	}
	take()
	wg.Wait()
	if seen != entries*each {
		t.Errorf("saw %d changes, want %d", seen, entries*each)
	}
}

func TestWaitIndexEndsWithTheIndexOrTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New()
		got := make(chan error, 1)
		go func() { got <- s.WaitIndex(t.Context(), 2) }()
		synctest.Wait()
		s.ApplyProto(1, 0, nil)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("woke at index 1")
		}
		s.ApplyProto(3, 0, nil)
		if err := <-got; err != nil {
			t.Error(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := s.WaitIndex(ctx, 9); !errors.Is(err, cause) {
			t.Errorf("WaitIndex = %v, want the context's cause", err)
		}
	})
}
