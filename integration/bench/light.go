package main

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A light is the worker of a light agent: what is to run runs at once, what is
// to stop has stopped.
type light struct {
	report func(task id.ID, status *modelv1.TaskStatus)

	mu       sync.Mutex // guards the fields below
	history  id.ID
	index    uint64
	session  uint64
	managers *cav1.ManagerList
	known    map[id.ID]modelv1.TaskState // as reported
}

// Position returns the highest (history, index) obeyed.
func (l *light) Position() (id.ID, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.history, l.index
}

// Obey reports each task in the state that is wanted of it.
func (l *light) Obey(_ context.Context, a *dispatchv1.Assignments, _ time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	history, err := id.FromBytes(a.GetHistory())
	if err != nil {
		return err
	}
	l.history, l.index = history, max(l.index, a.GetIndex())
	if a.GetComplete() {
		clear(l.known)
	}
	now := time.Now().UnixNano()
	for _, p := range a.GetPut() {
		task, err := id.FromBytes(p.GetTask())
		if err != nil {
			return err
		}
		state := taskstate.Running
		if p.GetDesired() > taskstate.Running {
			state = taskstate.Shutdown
		}
		if l.known[task] < state {
			l.known[task] = state
			l.report(task, &modelv1.TaskStatus{State: state, AgentAt: now})
		}
	}
	for _, b := range a.GetDrop() {
		task, err := id.FromBytes(b)
		if err != nil {
			return err
		}
		delete(l.known, task)
	}
	return nil
}

// NextSession draws a counter.
func (l *light) NextSession() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session++
	return l.session, nil
}

// Managers returns the newest list.
func (l *light) Managers() *cav1.ManagerList {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.managers
}

// KeepManagers takes a list that is newer.
func (l *light) KeepManagers(list *cav1.ManagerList) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if list.GetIndex() < l.managers.GetIndex() {
		return false, nil
	}
	l.managers = list
	return true, nil
}

// Acknowledge has nothing to keep.
func (l *light) Acknowledge(context.Context, id.ID, *modelv1.TaskStatus) {}

// patient reports whether a join that failed may be tried again soon: with the
// same key it gives the same identity.
func patient(err error) bool {
	return !errdefs.IsPermissionDenied(err) && !errdefs.IsInvalidArgument(err)
}
