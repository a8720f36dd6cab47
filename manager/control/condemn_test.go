package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// tribunal keeps the promises of the office that says what follows when a manager may
// be compromised, in few words.
type tribunal struct{}

func (tribunal) Begin(c *modelv1.Cluster, node *modelv1.Condemned, msg *controlv1.CondemnNodeRequest, by string, at int64) (joined bool) {
	if c.GetCondemnation() == nil {
		c.Condemnation = &modelv1.Condemnation{Id: msg.GetRequestId(), By: by, StartedAt: at, Step: modelv1.CondemnationStep_CONDEMNATION_STEP_OUT}
	}
	for _, n := range c.GetCondemnation().GetNodes() {
		if string(n.GetNode()) == string(node.GetNode()) {
			return true
		}
	}
	c.Condemnation.Nodes = append(c.GetCondemnation().GetNodes(), node)
	c.WorkerToken, c.ManagerToken = nil, nil
	return false
}

func (tribunal) Names(nodes []*modelv1.Condemned) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.GetName())
	}
	return strings.Join(names, ", ")
}

func (w *world) condemn(ref string, remove bool) (*controlv1.CondemnNodeResponse, error) {
	return w.CondemnNode(w.ctx(), &controlv1.CondemnNodeRequest{RequestId: fresh(), Ref: ref, Remove: remove})
}

func TestACondemnedManagerIsToBeAWorkerAndThereAreNoTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	secret, err := w.CreateToken(w.ctx(), tokenRequest(9))
	if err != nil {
		t.Fatal(err)
	}
	req := &controlv1.CondemnNodeRequest{RequestId: fresh(), Ref: "dev02"}
	first, err := w.CondemnNode(w.ctx(), req)
	if err != nil || first.GetJoined() || len(first.GetWarnings()) != 1 || !strings.Contains(first.GetWarnings()[0], "two managers") {
		t.Fatalf("condemned: %v, %v", first, err)
	}
	if again, err := w.CondemnNode(w.ctx(), req); err != nil || again.GetJoined() {
		t.Errorf("its retry: %v, %v", again, err)
	}
	if got := w.snapshot().Node(num(2)).GetSpec().GetRole(); got != worker {
		t.Errorf("dev02 is to be a %v", got)
	}
	if other, err := w.condemn("dev02", false); err != nil || !other.GetJoined() {
		t.Errorf("once more: %v, %v", other, err)
	}
	for name, call := range map[string]func() error{
		"see": func() error {
			_, err := w.GetJoinToken(w.ctx(), &controlv1.GetJoinTokenRequest{Role: worker})
			return err
		},
		"rotate": func() error {
			_, err := w.RotateJoinToken(w.ctx(), &controlv1.RotateJoinTokenRequest{RequestId: fresh(), Role: worker})
			return err
		},
		"make": func() error { _, err := w.CreateToken(w.ctx(), tokenRequest(8)); return err },
	} {
		if err := call(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "manager dev02 may be compromised") {
			t.Errorf("%s a token: %v", name, err)
		}
	}
	// A change of the settings makes none either.
	if _, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: &modelv1.ClusterSpec{TaskHistory: 9}}); err != nil || len(w.snapshot().Cluster().GetWorkerToken()) > 0 {
		t.Errorf("a change of the settings made a token (%v)", err)
	}
	_, err = w.UpdateNode(w.ctx(), &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: "dev02", Role: manager.Enum()})
	w.refuses(err, errdefs.IsFailedPrecondition, "node dev02 may be compromised", "ctl swarm ca")
	_, err = w.AbortRootRotation(w.ctx(), &controlv1.AbortRootRotationRequest{RequestId: fresh()})
	w.refuses(err, errdefs.IsFailedPrecondition, "the rotation of the root is not aborted: manager dev02 may be compromised", "ctl swarm ca --rotate")
	x := idOf(secret.GetToken().GetId())
	if _, err := w.cfg.DB.Update(t.Context(), nil, func(tx *store.Tx) error { return RevokeToken(tx, x, "because") }); err != nil {
		t.Fatal(err)
	}
	if k := w.snapshot().Token(x); k.GetEndReason() != "because" || k.GetEnd() != modelv1.TokenEnd_TOKEN_END_REVOKED {
		t.Errorf("revoked, it is %v", k)
	}
}

func TestWhoIsCondemnedWithWhichWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.node(4, worker)
	if r, err := w.condemn("dev04", true); err != nil || len(r.GetWarnings()) != 1 || !strings.Contains(r.GetWarnings()[0], "only if it was a manager before") {
		t.Errorf("a worker: %v, %v", r, err)
	}
	_, err := w.condemn("dev09", false)
	w.refuses(err, errdefs.IsNotFound, "dev09", "")
	_, err = w.CondemnNode(w.ctx(), &controlv1.CondemnNodeRequest{RequestId: fresh(), Ref: "dev02", Deadline: int64(time.Second)})
	w.refuses(err, errdefs.IsInvalidArgument, "deadline 1s: want 1m0s", "")
	w.quorum = errors.New("1 of 2 answers")
	_, err = w.condemn("dev02", false)
	w.refuses(err, errdefs.IsFailedPrecondition, "loss of quorum: 1 of 2 answers", "promote another node")
	w.quorum = nil
	// One that is out, and then is to be removed as well, is.
	c := w.snapshot().Cluster()
	c.Condemnation.Step = modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
	if r, err := w.condemn("dev04", true); err != nil || !r.GetJoined() || w.snapshot().Node(num(4)) != nil {
		t.Errorf("out already: %v, %v", r, err)
	}
	if r, err := w.condemn("dev04", true); err != nil || !r.GetJoined() {
		t.Errorf("gone already: %v, %v", r, err)
	}
	alone := newWorld(t, 1)
	_, err = alone.condemn("dev01", false)
	alone.refuses(err, errdefs.IsFailedPrecondition, "the last manager", "ctl node promote NODE")
}

// asRotator calls as a job.
func asRotator(ctx context.Context) context.Context {
	return rpc.WithCaller(ctx, rpc.Caller{Kind: rpc.User, User: "job", Rights: modelv1.UserRole_USER_ROLE_ROTATOR, At: num(1)})
}

func TestARotatorRotatesAndGetsNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	ctx := asRotator(t.Context())
	for _, role := range []modelv1.Role{worker, manager} {
		before := w.snapshot().Cluster()
		r, err := w.RotateJoinToken(ctx, &controlv1.RotateJoinTokenRequest{RequestId: fresh(), Role: role})
		after := w.snapshot().Cluster()
		if err != nil || r.GetToken() != "" || string(before.GetWorkerToken())+string(before.GetManagerToken()) == string(after.GetWorkerToken())+string(after.GetManagerToken()) {
			t.Errorf("a token for a %v: %v, %v", role, r, err)
		}
	}
	for words, ask := range map[string]*controlv1.RotateRootRequest{
		"a root of one's own":         {Certificate: []byte("c"), Key: []byte("k")},
		"another life":                {CertExpiry: int64(24 * time.Hour)},
		"another root":                {Replace: true},
		"a deadline of less than 1h0": {Deadline: int64(59 * time.Minute), OnStraggler: modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE},
	} {
		ask.RequestId = fresh()
		_, err := w.RotateRoot(ctx, ask)
		w.refuses(err, errdefs.IsPermissionDenied, words, "have an admin do it")
	}
	if w.snapshot().Cluster().GetRoot().GetRotation() != nil {
		t.Fatal("what was refused was begun")
	}
	begun, err := w.RotateRoot(ctx, &controlv1.RotateRootRequest{RequestId: fresh(), Deadline: int64(time.Hour), OnStraggler: modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE})
	if err != nil || begun.GetRoot().GetRotation() == nil || begun.GetRoot().GetRotation().GetBy() != "" {
		t.Errorf("a rotation: %v, %v", begun, err)
	}
	// Joined, a rotation stays as it is: what is asked of it is asked by an admin.
	ask := &controlv1.RotateRootRequest{Deadline: int64(2 * time.Hour), OnStraggler: modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE}
	if got := asItIs(ctx, w.snapshot().Cluster(), ask); got.GetDeadline() != 0 || got.GetOnStraggler() != 0 {
		t.Errorf("joined, a job asks for %v", got)
	}
	if got := asItIs(w.ctx(), w.snapshot().Cluster(), ask); got.GetDeadline() == 0 {
		t.Errorf("joined, an admin asks for %v", got)
	}
}
