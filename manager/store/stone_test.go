//go:build invariants

package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestChangingWhatTheStoreGaveOutEndsTheProcess: the last words name the object
// and what of it was changed, and hold nothing that was in it.
func TestChangingWhatTheStoreGaveOutEndsTheProcess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Snapshot)
		put    *logv1.Operation
		want   string
	}{
		{"a service", func(s *Snapshot) {
			v := s.Service(web)
			v.GetSpec().Name, v.LastRevision = "hush-hush", 7
		}, opService(web, "new"), "service " + web.String() + " of version 1: spec, last_revision"},
		{"a field that is taken away", func(s *Snapshot) { s.Service(web).Spec = nil }, opService(web, "new"), "service " + web.String() + " of version 1: spec"},
		{"a revision", func(s *Snapshot) {
			s.Revision(web, 2).Template = &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Env: []string{"PASSWORD=hush-hush"}}}
		}, &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: KindRevision, Key: RevisionKey(web, 2)}}}, "revision 2 of service " + web.Short() + " of version 2: template"},
		{"a task", func(s *Snapshot) { s.Task(task1).Reason = "hush-hush" },
			&logv1.Operation{Op: &logv1.Operation_Decide{Decide: &logv1.Decide{Task: task1.Bytes(), Desired: taskstate.Shutdown}}},
			"task " + task1.String() + " of version 2: reason"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := small(t)
			must(t, s, opRevision(web, 2), &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{Id: task1.Bytes(), Service: web.Bytes(), Revision: 1, Slot: 1, Desired: taskstate.Running}}})
			tt.change(s.Snapshot())
			defer func() {
				said := fmt.Sprint(recover())
				if !strings.HasSuffix(said, tt.want) || !strings.HasPrefix(said, "invariant: an object of the store was changed after it was put: ") {
					t.Errorf("said %q, want %q at the end", said, tt.want)
				}
				if strings.Contains(said, "hush") {
					t.Errorf("it tells what was in the object: %q", said)
				}
			}()
			_ = step(s, tt.put) // it panics
		})
	}
}
