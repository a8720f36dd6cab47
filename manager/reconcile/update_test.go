package reconcile

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestARollingUpdateKeepsAllButOneRunning(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 4, nil)
		f.settle(synctest.Wait)
		w.edit(1, &modelv1.TaskTemplate{Force: 1}, nil)
		least := 4
		for range 200 {
			synctest.Wait()
			least = min(least, len(w.tasks(1, running)))
			if !f.step() {
				break
			}
		}
		if least != 3 {
			t.Errorf("%d ran at the least, want 3", least)
		}
		w.want(4, "of the new revision", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 2 }))
		if s := w.store.Snapshot().Service(serviceID(1)); s.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_UPDATING {
			t.Errorf("update %v before the last task was watched", s.GetUpdate())
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		s := w.store.Snapshot().Service(serviceID(1))
		if s.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_COMPLETED || s.GetCurrent() != 2 || s.GetPrevious() != 1 {
			t.Errorf("after the update: %v", s)
		}
	})
}

func TestStartFirstNeverRunsFewer(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 3, func(s *modelv1.Service, _ *modelv1.TaskTemplate) {
			s.Spec.Update.Order = modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST
		})
		f.settle(synctest.Wait)
		w.edit(1, &modelv1.TaskTemplate{Force: 1}, nil)
		for range 200 {
			synctest.Wait()
			if n := len(w.tasks(1, running)); n < 3 {
				t.Fatalf("%d run", n)
			}
			if !f.step() {
				break
			}
		}
		w.want(3, "of the new revision", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 2 }))
		w.want(3, "running at all", w.tasks(1, running))
	})
}

func TestAnUpdateThatFailsIsRolledBack(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 3, func(s *modelv1.Service, _ *modelv1.TaskTemplate) {
			s.Spec.Update.FailureAction = modelv1.FailureAction_FAILURE_ACTION_ROLLBACK
		})
		f.settle(synctest.Wait)
		f.crash = func(t *store.Task) bool { return t.Revision == 2 }
		w.edit(1, &modelv1.TaskTemplate{Force: 1}, nil)
		f.settle(synctest.Wait)
		time.Sleep(10 * time.Second)
		f.settle(synctest.Wait)
		w.want(3, "of the old revision", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 1 }))
		w.want(1, "of the new one, failed", w.tasks(1, func(t *store.Task) bool { return t.Revision == 2 }))
		s := w.store.Snapshot().Service(serviceID(1))
		if s.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED || s.GetTarget() != 1 || s.GetCurrent() != 1 {
			t.Errorf("after the rollback: %v", s)
		}
	})
}

func TestAnUpdateThatFailsIsPaused(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, f *fleet) {
		w.create(1, 3, nil)
		f.settle(synctest.Wait)
		f.crash = func(t *store.Task) bool { return t.Revision == 2 }
		w.edit(1, &modelv1.TaskTemplate{Force: 1}, nil)
		for range 5 {
			f.settle(synctest.Wait)
			time.Sleep(10 * time.Second)
		}
		w.want(2, "untouched", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 1 }))
		if s := w.store.Snapshot().Service(serviceID(1)); s.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_PAUSED {
			t.Errorf("update %v", s.GetUpdate())
		}
		f.crash = nil
		w.edit(1, &modelv1.TaskTemplate{Force: 2}, nil)
		for range 5 {
			f.settle(synctest.Wait)
			time.Sleep(10 * time.Second)
		}
		w.want(3, "of the fix", w.tasks(1, func(t *store.Task) bool { return running(t) && t.Revision == 3 }))
		var kept []uint64
		for r := range w.store.Snapshot().Revisions(serviceID(1)) {
			kept = append(kept, r.GetNumber())
		}
		if len(kept) != 3 { // 1 is previous and named by history, 2 by history, 3 runs
			t.Errorf("revisions %v", kept)
		}
	})
}
