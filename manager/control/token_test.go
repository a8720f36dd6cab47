package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func asRoot(t *testing.T) context.Context {
	t.Helper()
	return rpc.WithCaller(t.Context(), rpc.Caller{Kind: rpc.User, User: "uid:0", Local: true})
}

func tokenRequest(n byte) *controlv1.CreateTokenRequest {
	hash := sha256.Sum256([]byte{n})
	return &controlv1.CreateTokenRequest{RequestId: bytes.Repeat([]byte{n}, 16), SecretHash: hash[:], Role: worker}
}

func TestATokenIsMadeOnceForAHashAndNeverTellsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	req := tokenRequest(1)
	made, err := w.CreateToken(asRoot(t), req)
	if err != nil {
		t.Fatal(err)
	}
	v := made.GetToken()
	if ttl := v.GetExpiresAt() - v.GetMeta().GetCreatedAt(); v.GetUses() != 1 || ttl < int64(defaultTokenTTL) || v.GetSecretHash() != nil ||
		v.GetCreatedBy() != "user:uid:0" || made.GetAddress() != "dev01:2377" || len(v.GetRoot()) != 32 {
		t.Errorf("made %v", made)
	}
	again, err := w.CreateToken(asRoot(t), req)
	if err != nil || !bytes.Equal(again.GetToken().GetId(), v.GetId()) || w.snapshot().CountTokens() != 1 {
		t.Errorf("its retry made %v, %v", again, err)
	}
	got, err := w.GetToken(t.Context(), &controlv1.GetTokenRequest{Ref: idOf(v.GetId()).Short()})
	if err != nil || got.GetToken().GetSecretHash() != nil {
		t.Errorf("shown as %v, %v", got, err)
	}
	list, err := w.ListTokens(t.Context(), nil)
	if err != nil || len(list.GetTokens()) != 1 || list.GetTokens()[0].GetSecretHash() != nil {
		t.Errorf("listed as %v, %v", list, err)
	}
}

func TestATokenThatMakesNoSenseIsRefusedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	req := tokenRequest(1)
	req.Role, req.Ttl, req.Uses, req.SecretHash = 0, -1, 1001, []byte("short")
	req.Name, req.From, req.Description = "web-[", []string{"10.0.0.1/8", "nowhere"}, "\x1b[2J"
	_, err := w.CreateToken(asRoot(t), req)
	for _, part := range []string{"secret hash of 5 bytes", "role:", "ttl -1ns", "uses 1001", `name "web-["`, `from "10.0.0.1/8"`, `from "nowhere"`, "description:"} {
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), part) {
			t.Errorf("the refusal lacks %q: %v", part, err)
		}
	}
	if w.snapshot().CountTokens() != 0 {
		t.Error("it was made all the same")
	}
}

// waits makes a token and a node that it has waiting.
func (w *world) waits(n byte) (ref string) {
	w.Helper()
	made, err := w.CreateToken(asRoot(w.T), tokenRequest(n))
	if err != nil {
		w.Fatal(err)
	}
	v := w.snapshot().Token(idOf(made.GetToken().GetId()))
	used := &modelv1.JoinToken{Id: v.GetId(), SecretHash: v.GetSecretHash(), Role: v.GetRole(), Uses: v.GetUses(), ExpiresAt: v.GetExpiresAt(),
		Used: []*modelv1.TokenUse{{Node: num(n).Bytes(), Hostname: "new", Verdict: modelv1.TokenVerdict_TOKEN_VERDICT_PENDING}}}
	w.do(&logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: used}},
		&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: num(n).Bytes(), TokenHash: v.GetSecretHash(),
			Membership: waiting, Spec: &modelv1.NodeSpec{Role: worker}, Role: worker}}})
	return num(n).String()
}

func (w *world) verdict(n byte) modelv1.TokenVerdict {
	hash := sha256.Sum256([]byte{n})
	return w.snapshot().TokenByHash(hash[:]).GetUsed()[0].GetVerdict()
}

func TestANodeThatWaitsIsAcceptedOrRejectedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := func(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }
	in, out := w.waits(50), w.waits(51)
	for try, unchanged := range []bool{false, true} {
		resp, err := w.AcceptNode(asRoot(t), &controlv1.AcceptNodeRequest{RequestId: id(byte(100 + try)), Ref: in})
		if err != nil || resp.GetUnchanged() != unchanged {
			t.Errorf("accepted, try %d: %v, %v", try, resp, err)
		}
		no, err := w.RejectNode(asRoot(t), &controlv1.RejectNodeRequest{RequestId: id(byte(110 + try)), Ref: out})
		if err != nil || no.GetUnchanged() != unchanged {
			t.Errorf("rejected, try %d: %v, %v", try, no, err)
		}
	}
	if n := w.snapshot().Node(num(50)); n.GetMembership() != accepted || n.GetCurrent() != nil || w.verdict(50) != 0 {
		t.Errorf("the accepted node is %v", n)
	}
	if w.snapshot().Node(num(51)) != nil || w.verdict(51) != modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED {
		t.Error("the rejected node is still there")
	}
	if _, err := w.RejectNode(asRoot(t), &controlv1.RejectNodeRequest{RequestId: id(120), Ref: in}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a node that is in was rejected: %v", err)
	}
}

func TestARevokedTokenSendsAwayWhoWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.waits(50)
	hash := sha256.Sum256([]byte{50})
	v := w.snapshot().TokenByHash(hash[:])
	for n := range byte(2) { // and once more, which changes nothing
		req := &controlv1.RevokeTokenRequest{RequestId: bytes.Repeat([]byte{90 + n}, 16), Ref: idOf(v.GetId()).String()}
		if _, err := w.RevokeToken(asRoot(t), req); err != nil {
			t.Fatal(err)
		}
	}
	v = w.snapshot().TokenByHash(hash[:])
	if v.GetEnd() != modelv1.TokenEnd_TOKEN_END_REVOKED || w.verdict(50) != modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED || w.snapshot().Node(num(50)) != nil {
		t.Errorf("revoked, the token is %v", v)
	}
}

func TestStandingTokensAreTurnedOffAndOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	set := func(n byte, off bool) {
		t.Helper()
		resp, err := w.UpdateCluster(asRoot(t), &controlv1.UpdateClusterRequest{RequestId: bytes.Repeat([]byte{n}, 16),
			Spec: &modelv1.ClusterSpec{NoStandingTokens: off}})
		if c := resp.GetCluster(); err != nil || c.GetWorkerToken() != nil || c.GetPreviousWorkerToken() != nil {
			t.Fatalf("the answer is %v, %v", resp, err)
		}
	}
	old := w.snapshot().Cluster().GetWorkerToken()
	set(1, true)
	if c := w.snapshot().Cluster(); c.GetWorkerToken() != nil || c.GetManagerToken() != nil {
		t.Error("turned off, they are still there")
	}
	_, err := w.GetJoinToken(t.Context(), &controlv1.GetJoinTokenRequest{Role: worker})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(rpc.HintOf(err), "token create") {
		t.Errorf("asked for one: %v (%s)", err, rpc.HintOf(err))
	}
	if _, err := w.RotateJoinToken(asRoot(t), &controlv1.RotateJoinTokenRequest{RequestId: bytes.Repeat([]byte{7}, 16), Role: worker}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("rotated one: %v", err)
	}
	set(2, false)
	if c := w.snapshot().Cluster(); len(c.GetWorkerToken()) == 0 || len(c.GetManagerToken()) == 0 || bytes.Equal(c.GetWorkerToken(), old) {
		t.Error("turned on, they are not new ones")
	}
}

func TestRotationByHandEndsTheOldAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c := w.snapshot().Cluster()
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: c.GetId(), Spec: c.GetSpec(), Root: c.GetRoot(),
		WorkerToken: []byte("a"), PreviousWorkerToken: []byte("b"), ManagerToken: []byte("c"), PreviousManagerToken: []byte("d"), PreviousUntil: 1 << 62}}})
	if _, err := w.RotateJoinToken(asRoot(t), &controlv1.RotateJoinTokenRequest{RequestId: bytes.Repeat([]byte{7}, 16), Role: worker}); err != nil {
		t.Fatal(err)
	}
	if c := w.snapshot().Cluster(); c.GetPreviousWorkerToken() != nil || !bytes.Equal(c.GetPreviousManagerToken(), []byte("d")) {
		t.Errorf("the former tokens are %q and %q", c.GetPreviousWorkerToken(), c.GetPreviousManagerToken())
	}
}
