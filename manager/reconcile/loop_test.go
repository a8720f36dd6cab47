package reconcile

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestALoopWithoutItsNeedsSaysWhich(t *testing.T) {
	t.Parallel()
	if err := (&Loop{}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "DB, Store and Log are required") {
		t.Errorf("Run = %v", err)
	}
}

func TestAnUnreadableLogEndsTheLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node(0, nil)
		w.create(1, 1, nil)
		w.before = func() error { return &store.Unreadable{Index: 9, What: "has an operation of a later version"} }
		err := New(Config{DB: w.db, Store: w.store, Log: slog.New(slog.DiscardHandler)}).Run(t.Context())
		if !errors.As(err, new(*store.Unreadable)) {
			t.Errorf("Run = %v, want Unreadable", err)
		}
	})
}

func TestAProposalWithoutAnswerIsPlannedAgainLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node(0, nil)
		var tries atomic.Int32
		w.before = func() error {
			if time.Sleep(time.Millisecond); tries.Load() < 20 {
				tries.Add(1)
				return errRefused
			}
			return nil
		}
		w.create(1, 3, nil)
		stop := w.start()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := tries.Load(); n >= 20 || n < 8 {
			t.Errorf("%d tries in 5 s", n)
		}
		time.Sleep(time.Minute)
		newFleet(w, 1, nil).settle(synctest.Wait)
		w.want(3, "running in the end", w.tasks(1, running))
		stop()
	})
}

func TestUnitsThatConflictLeaveTheirServiceDirty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node(0, nil)
		w.create(1, 3, nil)
		conflicts := 0
		w.before = func() error { // the operator is always just ahead
			if conflicts < 30 {
				conflicts++
				w.edit(1, nil, func(s *modelv1.Service) { s.Spec.Labels = map[string]string{"edit": strings.Repeat("x", conflicts)} })
			}
			return nil
		}
		stop := w.start()
		time.Sleep(time.Hour)
		newFleet(w, 1, nil).settle(synctest.Wait)
		w.want(3, "running in the end", w.tasks(1, running))
		if conflicts != 30 {
			t.Errorf("%d conflicts, want 30", conflicts)
		}
		stop()
	})
}

func TestLivenessAndReportsNeverMakeAUnitConflict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node(0, nil)
		w.node(1, nil)
		w.create(1, 3, nil)
		stop := w.start()
		f := newFleet(w, 2, nil)
		f.settle(synctest.Wait)
		before := w.entries
		w.before = func() error { // beats and reports arrive all the time
			w.seen(0, modelv1.NodeState_NODE_STATE_READY)
			f.step()
			return nil
		}
		w.scale(1, 6)
		synctest.Wait()
		w.want(6, "made", w.tasks(1, wanted))
		if n := w.entries - before; n != 1 {
			t.Errorf("it took %d entries, want 1", n)
		}
		stop()
	})
}

func TestALookAtALargeServiceIsRestedFrom(t *testing.T) {
	t.Parallel()
	const look = 20 * time.Millisecond
	for _, tt := range []struct {
		name string
		last time.Duration
		end  ending
		want time.Duration
	}{
		{"it advanced", 0, advanced, look},
		{"it found nothing to do", 0, idle, 3 * look},
		{"it was refused", 0, refused, firstPause},
		{"it was refused again", firstPause, refused, 2 * firstPause},
		{"it is refused for long", maxPause, refused, maxPause},
	} {
		if got := nextPause(tt.last, look, tt.end); got != tt.want {
			t.Errorf("%s: it rests %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := nextPause(0, time.Minute, idle); got != maxPause {
		t.Errorf("after a look of a minute it rests %v, want %v", got, maxPause)
	}
}
