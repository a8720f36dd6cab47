package rpc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

type seenBy struct{ saw []string }

func (w *seenBy) Saw(c Caller, code, reason string) {
	w.saw = append(w.saw, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.Key(), c.Method, code, reason)))
}

func TestAWitnessIsToldOfRefusalsAndOfWhatIsShown(t *testing.T) {
	t.Parallel()
	alice := Caller{Kind: User, User: "alice"}
	for name, tt := range map[string]struct {
		policy *rpcv1.Policy
		err    error
		want   string // empty: nothing
	}{
		"a change":              {&rpcv1.Policy{Leader: true}, nil, ""},
		"a read":                {&rpcv1.Policy{Read: true}, nil, ""},
		"a secret":              {&rpcv1.Policy{Read: true, Shows: true}, nil, "user:alice /x/Y"},
		"a refused change":      {&rpcv1.Policy{Leader: true}, Errorf(errdefs.ErrFailedPrecondition, "no quorum without it"), "user:alice /x/Y FailedPrecondition no quorum without it"},
		"a refused read":        {&rpcv1.Policy{Read: true}, Errorf(errdefs.ErrPermissionDenied, "no"), "user:alice /x/Y PermissionDenied no"},
		"what is not there":     {&rpcv1.Policy{Read: true}, Errorf(errdefs.ErrNotFound, "service x"), ""},
		"a change of nothing":   {&rpcv1.Policy{Leader: true}, Errorf(errdefs.ErrNotFound, "service hunter2"), "user:alice /x/Y NotFound"},
		"a senseless change":    {&rpcv1.Policy{Leader: true}, Errorf(errdefs.ErrInvalidArgument, "--env PASSWORD=hunter2"), "user:alice /x/Y InvalidArgument"},
		"a change in bad times": {&rpcv1.Policy{Leader: true}, Errorf(errdefs.ErrUnavailable, "no leader"), ""},
	} {
		s := &Server{}
		w := &seenBy{}
		s.SetWitness(w)
		c := &call{method: &method{name: "/x/Y", policy: tt.policy}, caller: alice}
		c.caller.Method = "/x/Y"
		if tt.err == nil {
			s.shown(c)
		}
		s.ended(c, tt.err)
		if got := strings.Join(w.saw, "; "); got != tt.want {
			t.Errorf("%s: told %q, want %q", name, got, tt.want)
		}
	}
}

func TestAWitnessHearsWhatWasSeenBeforeItCame(t *testing.T) {
	t.Parallel()
	s := &Server{}
	for i := range 2 * maxUnseen {
		s.Saw(Caller{Kind: User, User: "uid:0", Method: fmt.Sprint(i)}, "", "")
	}
	w := &seenBy{}
	s.SetWitness(w)
	s.Saw(Caller{Method: "now"}, "", "")
	if len(w.saw) != maxUnseen+1 || w.saw[0] != "user:uid:0 0" || !slices.Contains(w.saw, "anyone now") {
		t.Errorf("it was told %v", w.saw)
	}
	s.SetWitness(nil)
	s.Saw(Caller{}, "", "")
	s.SetWitness(w)
	if len(w.saw) != maxUnseen+2 {
		t.Errorf("after a pause it was told %d", len(w.saw))
	}
}
