package worker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

func TestAnAssignedTaskRunsAndIsStoppedAndRemoved(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.wantLast("assigned", a, taskstate.Running)
		if s.Running() != 1 {
			t.Errorf("%d tasks run, want 1", s.Running())
		}
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 6, Put: []*dispatchv1.Assignment{s.put(a, 4, taskstate.Shutdown)}})
		s.wantLast("told to stop", a, taskstate.Shutdown)
		settle()
		s.wantContainers("stopped but still assigned", a)
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 7, Drop: [][]byte{a.Bytes()}})
		settle()
		s.wantContainers("dropped")
	})
}

func TestACompleteSetReplacesAndAnIncrementChanges(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a, b, c := id.New(), id.New(), id.New()
		s.obey(s.complete(5, s.put(a, 1, taskstate.Running), s.put(b, 1, taskstate.Running)))
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 6, Put: []*dispatchv1.Assignment{s.put(c, 6, taskstate.Running)}})
		s.wantContainers("after an increment", a, b, c)
		s.obey(s.complete(8, s.put(b, 1, taskstate.Running)))
		settle()
		s.wantContainers("after a complete set", b)
		if n := s.host.Starts(b); n != 1 {
			t.Errorf("a task that stayed was started %d times", n)
		}
	})
}

func TestASmallerIndexIsNeverObeyed(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a, b := id.New(), id.New()
		s.obey(s.complete(100, s.put(a, 90, taskstate.Running)))
		if err := s.Obey(t.Context(), s.complete(80), lease); !errors.Is(err, ErrBehind) {
			t.Errorf("an older complete set: %v, want %v", err, ErrBehind)
		}
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 99, Drop: [][]byte{a.Bytes()}}) // overtaken
		s.halt()
		s.start()
		if err := s.Obey(t.Context(), s.complete(99), lease); !errors.Is(err, ErrBehind) {
			t.Errorf("an older complete set after a restart: %v, want %v", err, ErrBehind)
		}
		settle()
		s.wantContainers("after three old messages", a)
		s.obey(s.complete(100, s.put(a, 90, taskstate.Running), s.put(b, 100, taskstate.Running)))
		s.wantContainers("the same index is obeyed", a, b)
	})
}

func TestAnotherHistoryIsObeyedOnlyWithProofAndRemovesNothingForALease(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a, b := id.New(), id.New()
		s.obey(s.complete(100, s.put(a, 90, taskstate.Running)))
		s.Acknowledge(t.Context(), a, s.tasks[a].status)
		s.history = id.New()
		other := s.complete(70, s.put(b, 60, taskstate.Running))
		if err := s.Obey(t.Context(), other, lease); !errors.Is(err, ErrHistory) {
			t.Errorf("another history without proof: %v, want %v", err, ErrHistory)
		}
		other.Confirmed = true
		other.Complete = false
		if err := s.Obey(t.Context(), other, lease); !errors.Is(err, ErrHistory) {
			t.Errorf("an increment of another history: %v, want %v", err, ErrHistory)
		}
		other.Complete, other.Index = true, 95
		s.obey(other)
		s.wantLast("of the new history", b, taskstate.Running)
		time.Sleep(lease / 2)
		synctest.Wait()
		s.wantContainers("within the lease", a, b)
		if got := s.host.Running(); len(got) != 2 {
			t.Errorf("%v run within the lease, want both", got)
		}
		s.halt()
		s.start() // the lease is remembered
		time.Sleep(lease/2 - time.Second)
		synctest.Wait()
		s.wantContainers("within the lease, after a restart", a, b)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s.wantContainers("after the lease", b)
	})
}

func TestANewHistoryIsToldEverythingAgain(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(100, s.put(a, 90, taskstate.Running)))
		s.Acknowledge(t.Context(), a, s.tasks[a].status)
		s.mu.Lock()
		clear(s.reported)
		s.mu.Unlock()
		s.history = id.New()
		next := s.complete(95, s.put(a, 90, taskstate.Running))
		next.Confirmed = true
		s.obey(next)
		s.wantLast("to the new history", a, taskstate.Running)
	})
}

func TestOnlyOursIsRemovedAndOnlyWhatASetAtItsIndexDoesNotHold(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		older := s.stray(s.cluster, s.node, 50)
		newer := s.stray(s.cluster, s.node, 101)
		foreign := s.stray(s.cluster, id.New(), 1)
		elsewhere := s.stray(id.New(), s.node, 1)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s.wantContainers("before any set", older, newer, foreign, elsewhere)
		s.obey(s.complete(100))
		time.Sleep(time.Minute)
		synctest.Wait()
		s.wantContainers("after the set at 100", newer, foreign, elsewhere)
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 101})
		time.Sleep(time.Minute)
		synctest.Wait()
		s.wantContainers("after index 101", foreign, elsewhere)
	})
}

func TestARestartAdoptsWhatRuns(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a, b := id.New(), id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running), s.put(b, 4, taskstate.Running)))
		s.crash() // no state was synced
		s.host.Exit(b, exec.Exit{Code: 9})
		s.start()
		s.wantLast("adopted", a, taskstate.Running)
		s.wantLast("ended meanwhile", b, taskstate.Failed)
		if got := s.reported[a]; !slices.Equal(got, []taskstate.State{taskstate.Running}) {
			t.Errorf("an adopted task went through %v, want straight to RUNNING", got)
		}
		if s.host.Starts(a) != 1 || s.host.Starts(b) != 1 {
			t.Errorf("started %d and %d times, want once each", s.host.Starts(a), s.host.Starts(b))
		}
	})
}

func TestARestartWithoutARuntimeEndsNothing(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.crash()
		s.host.SetDown(true)
		s.start()
		time.Sleep(time.Minute)
		if got := s.last(a); got > taskstate.Running {
			t.Errorf("reported %s while the runtime was down", taskstate.Name(got))
		}
		s.host.SetDown(false)
		time.Sleep(time.Minute)
		s.wantLast("the runtime is back", a, taskstate.Running)
		if s.host.Starts(a) != 1 {
			t.Errorf("started %d times, want once", s.host.Starts(a))
		}
	})
}

func TestAnExitIsDurableBeforeItIsReportedAndReportedUntilAcknowledged(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.host.Exit(a, exec.Exit{Code: 3})
		s.wantLast("ended", a, taskstate.Failed)
		s.crash()
		s.host.Vanish(a) // only the journal knows
		s.start()
		s.wantLast("after a crash", a, taskstate.Failed)
		if got := s.tasks[a].status; got.GetExitCode() != 3 || got.GetError() != "task: non-zero exit (3)" {
			t.Errorf("remembered %v, want exit code 3", got)
		}
		s.Acknowledge(t.Context(), a, s.tasks[a].status)
		s.halt()
		s.start()
		s.wantLast("once acknowledged", a, taskstate.New)
		if n := s.host.Starts(a); n != 1 {
			t.Errorf("started %d times, want once", n)
		}
	})
}

func TestAMissedExitIsFoundByTheRelist(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.host.Vanish(a)
		time.Sleep(time.Minute)
		s.wantLast("vanished", a, taskstate.Failed)
	})
}

func TestTheContainerOfAnEndedTaskDoesNotRun(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.host.Reboot()
		s.wantLast("rebooted", a, taskstate.Failed)
		s.host.Vanish(a)
		spec := exec.Spec{Cluster: s.cluster, Node: s.node, Task: a, Service: s.service, CreatedIndex: 4, Template: s.template().GetTemplate()}
		c := s.host.Runtime(s.cluster, s.node).Task(spec) // something made it run again
		if err := errors.Join(c.Prepare(t.Context()), c.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.host.Running(); len(got) != 0 {
			t.Errorf("%v run, want nothing", got)
		}
		s.wantContainers("it is still assigned", a)
	})
}

func TestADropDuringASlowPullLeavesNothing(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.host.SetScript(func(exec.Spec) exectest.Script { return exectest.Script{PrepareDelay: time.Hour} })
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.wantLast("pulling", a, taskstate.Preparing)
		s.obey(s.complete(6))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		s.wantContainers("dropped")
		if len(s.runners) != 0 {
			t.Errorf("%d runners are left", len(s.runners))
		}
	})
}

func TestMalformedMessagesChangeNothing(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		noTemplate := s.complete(9, s.put(a, 4, taskstate.Running))
		noTemplate.Templates, noTemplate.Complete = nil, false
		s.obey(s.complete(1))
		s.templates = map[templateKey]*dispatchv1.Template{}
		for name, m := range map[string]*dispatchv1.Assignments{
			"no history":  {Index: 9, Complete: true},
			"no index":    {History: s.history.Bytes(), Complete: true},
			"no template": noTemplate,
			"bad id":      {History: s.history.Bytes(), Index: 9, Complete: true, Put: []*dispatchv1.Assignment{{Task: []byte{1}}}},
		} {
			if err := s.Obey(t.Context(), m, lease); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
			}
		}
		if _, i := s.Position(); i != 1 {
			t.Errorf("obeyed index %d, want 1", i)
		}
	})
}

func TestAnIncrementIsNotTheFirstThingObeyed(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		err := s.Obey(t.Context(), &dispatchv1.Assignments{History: s.history.Bytes(), Index: 9}, lease)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("obey: %v, want %v", err, ErrMalformed)
		}
	})
}

func TestATaskThatEndedLongAgoNeedsNoTemplate(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		ended, stopping := id.New(), id.New()
		m := s.complete(5, s.put(ended, 1, taskstate.Running), s.put(stopping, 1, taskstate.Shutdown))
		m.Templates = nil
		s.obey(m)
		s.wantLast("nobody knows how to run it", ended, taskstate.New)
		s.wantLast("there is nothing to stop", stopping, taskstate.Shutdown)
		s.wantContainers("neither has one")
	})
}

func TestTemplatesOutliveTheMessageThatBroughtThem(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a, b := id.New(), id.New()
		s.obey(s.complete(100))
		stale := s.complete(99)
		stale.Complete, stale.Templates[0].Revision = false, 2
		s.obey(stale) // overtaken, but its template is not sent again
		p := s.put(a, 101, taskstate.Running)
		p.Revision = 2
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 101, Put: []*dispatchv1.Assignment{p, s.put(b, 101, taskstate.Running)}})
		s.crash()
		s.start()
		if s.tasks[a].template == nil || s.tasks[b].template == nil {
			t.Error("a template was lost in a crash")
		}
		s.obey(&dispatchv1.Assignments{History: s.history.Bytes(), Index: 102, Complete: true})
		if n := len(s.templates); n != 0 {
			t.Errorf("%d templates are kept that nothing uses", n)
		}
	})
}

func TestSessionsCountUpOverCrashes(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		var last uint64
		for range 3 {
			for range 2 {
				n, err := s.NextSession()
				if err != nil || n <= last {
					t.Fatalf("session %d after %d, %v", n, last, err)
				}
				last = n
			}
			s.crash()
			s.start()
		}
	})
}

func TestTheFirstSessionOfAJournalIsAboveThoseOfOneThatWasLost(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		n, err := s.NextSession()
		if err != nil || n < uint64(time.Now().UnixMilli()) {
			t.Errorf("session %d, %v; want the time of day at least", n, err)
		}
	})
}

func TestAnOlderListOfManagersReplacesNothing(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		list := func(history id.ID, index uint64) *cav1.ManagerList {
			return &cav1.ManagerList{History: history.Bytes(), Index: index, Managers: []*cav1.Manager{{Address: "a"}}}
		}
		keep := func(l *cav1.ManagerList, want bool) {
			t.Helper()
			if got, err := s.KeepManagers(l); err != nil || got != want {
				t.Errorf("list %d: taken %v, %v; want %v", l.GetIndex(), got, err, want)
			}
		}
		s.obey(s.complete(5))
		keep(list(s.history, 7), true)
		keep(list(s.history, 6), false)
		keep(&cav1.ManagerList{History: s.history.Bytes(), Index: 9}, false) // empty
		other := id.New()
		keep(list(other, 20), false) // not the history obeyed
		s.crash()
		s.start()
		if got := s.Managers().GetIndex(); got != 7 {
			t.Fatalf("list %d after a restart, want 7", got)
		}
		turn := &dispatchv1.Assignments{History: other.Bytes(), Index: 3, Complete: true, Confirmed: true}
		s.obey(turn)
		keep(list(other, 3), true)
	})
}

func TestRunLeavesContainersAsTheyAre(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		a := id.New()
		s.obey(s.complete(5, s.put(a, 4, taskstate.Running)))
		s.halt()
		if got := s.host.Running(); !slices.Equal(got, []id.ID{a}) {
			t.Errorf("%v run after the worker ended, want its task", got)
		}
		s.start()
	})
}

func TestObeyEndsWithItsContext(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.obeying <- struct{}{} // another message is under way
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := s.Obey(ctx, s.complete(5), lease); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("obey: %v, want the deadline", err)
		}
		<-s.obeying
	})
}
