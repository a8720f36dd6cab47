package dispatch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

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

// TestANodeIsToldWhatToTrustAndWhoseCertificateToHave: the first always, the second
// while a rotation has nodes renew; and what a session's handshake showed is noted.
func TestANodeIsToldWhatToTrustAndWhoseCertificateToHave(t *testing.T) {
	t.Parallel()
	inBubble(t, func(ctx context.Context, t *testing.T, r *replica, leader, _ *manager) {
		put := func(root *modelv1.RootCA) {
			c := proto.CloneOf(r.Snapshot().Cluster())
			c.Root = root
			r.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
		}
		rotation := func(phase modelv1.RootPhase) *modelv1.RootRotation {
			return &modelv1.RootRotation{Phase: phase, Spread: 7}
		}
		a := leader.open(ctx, t, 1, opening(1))
		wish := func(trust uint64) *dispatchv1.Wish {
			t.Helper()
			return a.until("a wish", func(m *dispatchv1.SessionResponse) bool { return m.GetWish().GetTrust() == trust && m.GetWish() != nil }).GetWish()
		}
		wish(0)
		put(&modelv1.RootCA{Certificates: [][]byte{[]byte("a"), []byte("b")}, Trust: 1, Rotation: rotation(modelv1.RootPhase_ROOT_PHASE_TRUST)})
		if w := wish(1); len(w.GetRoots()) != 2 || len(w.GetIssuer()) != 0 {
			t.Errorf("before the next root signs: %v", w)
		}
		put(&modelv1.RootCA{Certificates: [][]byte{[]byte("b"), []byte("a")}, Trust: 2, Rotation: rotation(modelv1.RootPhase_ROOT_PHASE_RENEW)})
		want := sha256.Sum256([]byte("b"))
		if w := wish(2); !bytes.Equal(w.GetIssuer(), want[:]) || w.GetSpread() != 7 || !bytes.Equal(w.GetHistory(), r.Snapshot().Cluster().GetHistory()) {
			t.Errorf("when it does: %v", w)
		}
		put(&modelv1.RootCA{Certificates: [][]byte{[]byte("b")}, Trust: 3})
		if w := wish(3); len(w.GetRoots()) != 1 || len(w.GetIssuer()) != 0 {
			t.Errorf("after it: %v", w)
		}
	})
}

// TestACertificateThatNeverCameIsAskedForAgain: the record has the one that was issued,
// and the node was killed before it had it.
func TestACertificateThatNeverCameIsAskedForAgain(t *testing.T) {
	t.Parallel()
	const worker, manager = modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_MANAGER
	r := newReplica(t)
	n := &modelv1.Node{
		Id: nodeN(1).Bytes(), Spec: &modelv1.NodeSpec{Role: worker},
		Current:  &modelv1.Certificate{Generation: 9, Role: worker},
		Previous: &modelv1.Certificate{Generation: 8, Role: manager},
	}
	r.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: n}})
	for shown, want := range map[uint64]bool{9: false, 8: true, 7: true, 0: false} {
		if got := wishOf(r.Snapshot(), nodeN(1), shown).GetRenew(); got != want {
			t.Errorf("a session with generation %d of %d is told to renew: %v, want %v", shown, n.GetCurrent().GetGeneration(), got, want)
		}
	}
}
