package dispatch

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestCredentialsGoWithATaskThatIsStillToBePulledForAndToNobodyElse(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, follower *manager) {
		private := func(password string) {
			v := &modelv1.Service{Id: nodeN(50).Bytes(), Spec: &modelv1.ServiceSpec{Name: "ping"}, Current: 1, Target: 1, LastRevision: 1}
			for _, registry := range []string{"elsewhere.test", "r.test"} {
				v.RegistryAuths = append(v.RegistryAuths, &modelv1.RegistryAuth{Registry: registry, Username: "bee", Password: []byte(password)})
			}
			r.do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
		}
		private("honey")
		r.do(&logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{
			Service: nodeN(50).Bytes(), Number: 1, Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "r.test/app:1"}},
		}}})
		becomes := func(n byte, state modelv1.TaskState) {
			r.do(&logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{
				Task: nodeN(n).Bytes(), Node: nodeN(1).Bytes(), Status: &modelv1.TaskStatus{State: state},
			}}})
		}
		a := leader.open(ctx, t, 1, opening(1))
		auths := func(a *agent) (out []string) {
			t.Helper()
			m := a.until("assignments", func(m *dispatchv1.SessionResponse) bool { return m.GetAssignments() != nil }).GetAssignments()
			for _, tpl := range m.GetTemplates() {
				if auth := tpl.GetRegistryAuth(); auth != nil {
					out = append(out, auth.GetRegistry()+"="+string(auth.GetPassword()))
				} else {
					out = append(out, "none")
				}
			}
			return out
		}
		want := func(what string, got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: sent %q, want %q", what, got, want)
			}
		}
		want("no task", auths(a))
		r.task(10, 1)
		want("the first task", auths(a), "r.test=honey")
		r.task(11, 1)
		want("another", auths(a))
		private("wax")
		r.task(12, 1)
		want("another, after fresh ones", auths(a), "r.test=wax")
		other := follower.open(ctx, t, 3, opening(1))
		want("a node without a task", auths(other))
		for n := range byte(3) {
			becomes(10+n, modelv1.TaskState_TASK_STATE_RUNNING)
		}
		a.drop()
		synctest.Wait()
		a = follower.open(ctx, t, 1, opening(2))
		want("all of its tasks run", auths(a), "none")
		a.drop()
		r.task(13, 1)
		a = follower.open(ctx, t, 1, opening(3))
		want("one of four is to be pulled for", auths(a), "r.test=wax")
	})
}
