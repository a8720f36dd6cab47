package progress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const monitor = 5 * time.Second

// service is a replicated service of n at the given revisions.
func service(n, current, target uint64, state modelv1.UpdateState) *controlv1.ServiceView {
	return &controlv1.ServiceView{Service: &modelv1.Service{
		Meta: &modelv1.Meta{Version: 7}, Current: current, Target: target,
		Spec: &modelv1.ServiceSpec{Name: "ping", Update: &modelv1.UpdateConfig{Monitor: int64(monitor)},
			Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: n}}},
		Update: &modelv1.UpdateStatus{State: state, Message: "because"},
	}}
}

func task(slot, revision uint64, desired, state modelv1.TaskState, problem string) *controlv1.TaskView {
	return &controlv1.TaskView{Task: &modelv1.Task{
		Id: fmt.Appendf(nil, "%d-%d-%d", slot, revision, state), Slot: slot, Revision: revision, Desired: desired,
		CreatedIndex: revision*100 + slot, Status: &modelv1.TaskStatus{State: state, Error: problem}}}
}

func whole(v *controlv1.ServiceView, tasks ...*controlv1.TaskView) *controlv1.WatchServiceResponse {
	return &controlv1.WatchServiceResponse{Service: v, Tasks: tasks, Complete: true}
}

func TestReport(t *testing.T) {
	t.Parallel()
	none := modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED
	updating := modelv1.UpdateState_UPDATE_STATE_UPDATING
	run, end := taskstate.Running, taskstate.Shutdown
	lost := task(1, 1, run, run, "")
	lost.UnknownSince = 1
	policy := func(c modelv1.RestartCondition, attempts uint64) *controlv1.ServiceView {
		v := service(1, 1, 1, none)
		v.Service.Spec.Restart = &modelv1.RestartPolicy{Condition: c, MaxAttempts: attempts}
		return v
	}
	never, onFailure, always := modelv1.RestartCondition_RESTART_CONDITION_NONE,
		modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, modelv1.RestartCondition_RESTART_CONDITION_ANY
	for _, tt := range []struct {
		name  string
		goal  progress.Goal
		m     *controlv1.WatchServiceResponse
		frame []string
		done  bool
		fault string
	}{
		{name: "slots without a task are new", m: whole(service(2, 1, 1, none), task(1, 1, run, taskstate.Preparing, "")),
			frame: []string{"overall progress: 0 out of 2 tasks", "1/2: preparing ", "2/2: new       "}},
		{name: "a slot between two tasks keeps its line", m: whole(service(3, 1, 1, none), task(1, 1, run, run, ""), task(2, 1, end, end, ""), task(3, 1, run, run, "")),
			frame: []string{"overall progress: 2 out of 3 tasks", "1/3: running   ", "2/3: new       ", "3/3: running   "}},
		{name: "all run", m: whole(service(1, 1, 1, none), task(1, 1, run, run, "")), done: true,
			frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "an error stands in place of the bar", m: whole(service(1, 1, 1, none), task(1, 1, run, taskstate.Rejected, "no such\nimage")),
			frame: []string{"overall progress: 0 out of 1 tasks", "1/1: no such image"}},
		{name: "a lost host's task does not count", m: whole(service(1, 1, 1, none), lost),
			frame: []string{"overall progress: 0 out of 1 tasks", "1/1: its node is lost"}},
		{name: "history does not count", m: whole(service(1, 1, 1, none), task(1, 1, end, taskstate.Failed, "x"), task(1, 2, run, run, "")), done: true,
			frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "what is too many keeps it from being done", m: whole(service(1, 1, 1, none), task(1, 1, run, run, ""), task(2, 1, run, run, "")),
			frame: []string{"overall progress: 2 out of 1 tasks", "1/1: running   ", "2/1: running   "}},
		{name: "none wanted, none there", m: whole(service(0, 1, 1, none)), done: true, frame: []string{"overall progress: 0 out of 0 tasks"}},
		{name: "an update counts the new revision only", goal: progress.Goal{Update: true},
			m:     whole(service(2, 1, 2, updating), task(1, 1, run, run, ""), task(2, 2, run, run, "")),
			frame: []string{"overall progress: 1 out of 2 tasks", "1/2: running   ", "2/2: running   "}},
		{name: "an update is not done while it goes on", goal: progress.Goal{Update: true},
			m:     whole(service(1, 1, 2, updating), task(1, 2, run, run, "")),
			frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "paused", goal: progress.Goal{Update: true}, m: whole(service(1, 1, 2, modelv1.UpdateState_UPDATE_STATE_PAUSED), task(1, 1, run, run, "")),
			fault: "service update paused: because", frame: []string{"overall progress: 0 out of 1 tasks", "1/1: running   "}},
		{name: "a pause of another time is no matter to who scales", m: whole(service(1, 1, 2, modelv1.UpdateState_UPDATE_STATE_PAUSED), task(1, 1, run, run, "")),
			done: true, frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "rolling back", goal: progress.Goal{Update: true},
			m:     whole(service(1, 2, 1, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED), task(1, 2, run, run, "")),
			frame: []string{"overall progress: rolling back update: 0 out of 1 tasks", "1/1: running   "}},
		{name: "rolled back although that was not asked", goal: progress.Goal{Update: true}, done: true,
			m:     whole(service(1, 1, 1, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED), task(1, 1, run, run, "")),
			fault: "service update rolled back: because", frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "rolled back as asked", goal: progress.Goal{Update: true, Rollback: true}, done: true,
			m:     whole(service(1, 1, 1, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED), task(1, 1, run, run, "")),
			frame: []string{"overall progress: 1 out of 1 tasks", "1/1: running   "}},
		{name: "an answer from before the change says nothing", goal: progress.Goal{Version: 8},
			m: whole(service(1, 1, 1, none), task(1, 1, run, run, "")), frame: []string{"overall progress: waiting for new tasks"}},
		{name: "a failure that is not followed ends the wait", m: whole(policy(never, 0), task(1, 1, run, taskstate.Failed, "exit 4")),
			fault: "task 1/1 has ended and the restart policy leaves it at that: exit 4", frame: []string{"overall progress: 0 out of 1 tasks", "1/1: exit 4"}},
		{name: "the attempts are used up", m: whole(policy(always, 1), task(1, 1, end, taskstate.Rejected, "x"), task(1, 1, run, taskstate.Failed, "y")),
			fault: "task 1/1 has ended and the restart policy leaves it at that: y", frame: []string{"overall progress: 0 out of 1 tasks", "1/1: y"}},
		{name: "an attempt is left", m: whole(policy(always, 2), task(1, 1, end, taskstate.Rejected, "x"), task(1, 1, run, taskstate.Failed, "y")),
			frame: []string{"overall progress: 0 out of 1 tasks", "1/1: y"}},
		{name: "a good end that is not followed is what was asked for", m: whole(policy(onFailure, 0), task(1, 1, run, taskstate.Complete, "")), done: true,
			frame: []string{"overall progress: 1 out of 1 tasks", "1/1: complete  "}},
		{name: "a failure that is followed", m: whole(policy(onFailure, 0), task(1, 1, run, taskstate.Failed, "y")),
			frame: []string{"overall progress: 0 out of 1 tasks", "1/1: y"}},
		{name: "an end that is not the new revision's", goal: progress.Goal{Update: true}, m: whole(func() *controlv1.ServiceView {
			v := policy(never, 0)
			v.Service.Target, v.Service.Update.State = 2, updating
			return v
		}(), task(1, 1, run, taskstate.Failed, "y")), frame: []string{"overall progress: 0 out of 1 tasks", "1/1: y"}},
		{name: "above twenty one line says it all", m: whole(service(21, 1, 1, none)), frame: []string{"overall progress: 0 out of 21 tasks"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := progress.NewView(tt.goal)
			v.Apply(tt.m)
			r := v.Report()
			var frame []string
			for _, l := range r.Frame() {
				frame = append(frame, l.Text)
			}
			if diff := cmp.Diff(tt.frame, frame); diff != "" {
				t.Errorf("frame differs (-want +got):\n%s", diff)
			}
			if r.Converged != tt.done {
				t.Errorf("converged %v, want %v", r.Converged, tt.done)
			}
			if got := fmt.Sprint(r.Fault); r.Fault != nil && got != tt.fault || r.Fault == nil && tt.fault != "" {
				t.Errorf("fault %q, want %q", got, tt.fault)
			}
		})
	}
}

func TestScreenRedrawsInPlace(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := progress.Screen{W: &b, Width: 20}
	s.Draw([]progress.Line{{Text: "one"}, {Text: "1/1: ", Bar: progress.Bar(1, 2)}})
	s.Draw([]progress.Line{{Text: "two"}})
	want := "\r\x1b[2Kone\n\r\x1b[2K1/1: [============…\n" + "\x1b[2A\r\x1b[2Ktwo\n\x1b[J"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("drawn differs (-want +got):\n%s", diff)
	}
}

func TestPlainPrintsWhatChanged(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := progress.Screen{W: &b}
	s.Draw([]progress.Line{{Text: "0 of 2"}, {Text: "1/2: new ", Bar: "[>]"}, {Text: "2/2: new"}})
	s.Draw([]progress.Line{{Text: "0 of 2"}, {Text: "1/2: running"}, {Text: "2/2: new"}})
	s.Draw([]progress.Line{{Text: "1 of 2"}, {Text: "1/2: running"}, {Text: "2/2: new"}, {Text: "waiting 5", Plain: "waiting"}})
	s.Draw([]progress.Line{{Text: "1 of 2"}, {Text: "1/2: running"}, {Text: "2/2: new"}, {Text: "waiting 4", Plain: "waiting"}})
	want := "0 of 2\n1/2: new\n2/2: new\n1/2: running\n1 of 2\nwaiting\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("printed differs (-want +got):\n%s", diff)
	}
}

// A script is a source that says one message after another, each after a pause.
type script struct {
	ctx   context.Context
	steps []step
}

type step struct {
	after time.Duration
	m     *controlv1.WatchServiceResponse
	err   error
}

func (s *script) Recv() (*controlv1.WatchServiceResponse, error) {
	if len(s.steps) == 0 {
		<-s.ctx.Done()
		return nil, s.ctx.Err()
	}
	st := s.steps[0]
	s.steps = s.steps[1:]
	select {
	case <-time.After(st.after):
		return st.m, st.err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// wait runs a waiter over steps and returns what it printed and how long it took.
func wait(t *testing.T, limit time.Duration, goal progress.Goal, steps ...step) (printed string, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		ctx, stop := context.WithTimeout(t.Context(), limit)
		defer stop()
		src := &script{steps: steps}
		begin := time.Now()
		w := progress.Waiter{Screen: &progress.Screen{W: &b}, Goal: goal,
			Open: func(ctx context.Context, _ error) (progress.Source, error) { src.ctx = ctx; return src, nil }}
		err = w.Wait(ctx)
		printed, took = b.String(), time.Since(begin)
	})
	return printed, took, err
}

func TestWaitWatchesForAsLongAsTheServiceDoes(t *testing.T) {
	none := modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED
	up := whole(service(1, 1, 1, none), task(1, 1, taskstate.Running, taskstate.Running, ""))
	printed, took, err := wait(t, time.Hour, progress.Goal{}, step{m: whole(service(1, 1, 1, none))}, step{after: time.Second, m: up})
	want := "overall progress: 0 out of 1 tasks\n1/1: new\noverall progress: 1 out of 1 tasks\n1/1: running\n" +
		"verify: Waiting 5 seconds to verify that tasks are stable...\nverify: Service converged\n"
	if err != nil || took != time.Second+monitor || printed != want {
		t.Errorf("waited %v, %v, printed:\n%s\nwant:\n%s", took, err, printed, want)
	}
}

func TestAFailureWhileItIsWatchedBeginsTheWatchAnew(t *testing.T) {
	none := modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED
	up := whole(service(1, 1, 1, none), task(1, 1, taskstate.Running, taskstate.Running, ""))
	down := whole(service(1, 1, 1, none), task(1, 1, taskstate.Running, taskstate.Failed, "exit 1"))
	printed, took, err := wait(t, time.Hour, progress.Goal{}, step{m: up}, step{after: 2 * time.Second, m: down}, step{after: time.Second, m: up})
	if err != nil || took != 3*time.Second+monitor || !strings.Contains(printed, "verify: Detected task failure\n") {
		t.Errorf("waited %v, %v, printed:\n%s", took, err, printed)
	}
}

func TestWhatTheSwarmWatchedIsNotWatchedAgain(t *testing.T) {
	over := whole(service(1, 2, 2, modelv1.UpdateState_UPDATE_STATE_COMPLETED), task(1, 2, taskstate.Running, taskstate.Running, ""))
	_, took, err := wait(t, time.Hour, progress.Goal{Update: true}, step{m: over})
	if err != nil || took != 0 {
		t.Errorf("waited %v, %v; want nothing", took, err)
	}
}

func TestWaitEndsInTime(t *testing.T) {
	never := whole(service(1, 1, 1, modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED))
	_, took, err := wait(t, time.Minute, progress.Goal{}, step{m: never})
	if !errors.Is(err, context.DeadlineExceeded) || took != time.Minute {
		t.Errorf("waited %v, %v; want a minute and its end", took, err)
	}
}

func TestARemovedServiceIsNotWaitedFor(t *testing.T) {
	_, _, err := wait(t, time.Minute, progress.Goal{}, step{m: &controlv1.WatchServiceResponse{Removed: true}})
	if !errors.Is(err, progress.ErrRemoved) {
		t.Errorf("%v, want %v", err, progress.ErrRemoved)
	}
}

// outage is a watch that is open at times: each of its parts is one watch, and
// an error in place of a part is one that cannot be had.
func outage(t *testing.T, parts ...any) (printed string, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		begin := time.Now()
		w := progress.Waiter{Screen: &progress.Screen{W: &b}, Open: func(ctx context.Context, broke error) (progress.Source, error) {
			if errors.Is(broke, errdefs.ErrNotFound) || len(parts) == 0 {
				return nil, broke
			}
			part := parts[0]
			parts = parts[1:]
			if err, ok := part.(error); ok {
				return nil, err
			}
			return &script{ctx: ctx, steps: part.([]step)}, nil
		}}
		err = w.Wait(ctx)
		printed, took = b.String(), time.Since(begin)
	})
	return printed, took, err
}

func TestAWaitOutlivesItsManager(t *testing.T) {
	none := modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED
	up := whole(service(1, 1, 1, none), task(1, 1, taskstate.Running, taskstate.Running, ""))
	next := whole(service(1, 1, 1, none), task(1, 1, taskstate.Running, taskstate.Running, ""))
	next.Tasks[0].Task.Id = []byte("another")
	gone := errors.New("the manager went away")
	for _, tt := range []struct {
		name  string
		parts []any
		took  time.Duration
		err   error
		says  string
	}{
		{name: "opened again at once: nothing is lost", took: monitor,
			parts: []any{[]step{{m: up}, {after: 2 * time.Second, err: gone}}, []step{{m: up}}}},
		{name: "the time nobody watched counts if the same task still stands", took: 20 * time.Second, says: "verify: Waiting for a manager to answer...\n",
			parts: []any{[]step{{m: up}, {after: 2 * time.Second, err: gone}}, []step{{after: 18 * time.Second, m: up}}}},
		{name: "another task in its place is watched from then on", took: 20*time.Second + monitor,
			parts: []any{[]step{{m: up}, {after: 2 * time.Second, err: gone}}, []step{{after: 18 * time.Second, m: next}}}},
		{name: "a watch that cannot be had is asked for again", took: monitor,
			parts: []any{gone, errors.New("still not there"), []step{{m: up}}}},
		{name: "the service was removed meanwhile", took: 2 * time.Second, err: progress.ErrRemoved,
			parts: []any{[]step{{m: up}, {after: 2 * time.Second, err: gone}}, []step{{err: errdefs.ErrNotFound}}}},
		{name: "it never was", err: errdefs.ErrNotFound, parts: []any{[]step{{err: errdefs.ErrNotFound}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			printed, took, err := outage(t, tt.parts...)
			if !errors.Is(err, tt.err) || took != tt.took || !strings.Contains(printed, tt.says) {
				t.Errorf("waited %v, %v; want %v, %v; printed:\n%s", took, err, tt.took, tt.err, printed)
			}
		})
	}
}

func TestABrokenWatchIsOpenedAgain(t *testing.T) {
	up := whole(service(1, 1, 1, modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED), task(1, 1, taskstate.Running, taskstate.Running, ""))
	_, _, err := wait(t, time.Minute, progress.Goal{}, step{err: errors.New("the manager went away")}, step{m: up})
	if err != nil {
		t.Errorf("%v, want none", err)
	}
}
