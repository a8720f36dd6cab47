package rpc

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// behind is a replica that knows of a manager only once it has caught up; err says
// why it cannot.
type behind struct {
	alone
	Authorizer
	caught bool
	err    error
}

func (b *behind) Barrier(context.Context) error {
	b.caught = b.err == nil
	return b.err
}

func (b *behind) Node(context.Context, Proof) (modelv1.Role, error) {
	if b.caught {
		return modelv1.Role_ROLE_MANAGER, nil
	}
	return modelv1.Role_ROLE_WORKER, nil
}

// TestAReplicaThatIsBehindRefusesNoManager for good: a manager that has just been
// started may not know yet who was made one before it stopped.
func TestAReplicaThatIsBehindRefusesNoManager(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		role modelv1.Role
		kind func(error) bool
	}{
		{nil, modelv1.Role_ROLE_MANAGER, func(err error) bool { return err == nil }},
		{errors.New("no leader"), 0, errdefs.IsUnavailable},
	} {
		b := &behind{err: tt.err}
		c := &call{office: &office{authorizer: b, leader: b}}
		if role, err := c.carrier(t.Context()); role != tt.role || !tt.kind(err) {
			t.Errorf("with a barrier that says %v: %v, %v", tt.err, role, err)
		}
	}
}

// TestACallCarriedToWhoStopsIsTriedAgain: the office of a manager that stops is empty
// before its connections end.
func TestACallCarriedToWhoStopsIsTriedAgain(t *testing.T) {
	t.Parallel()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(mdForwarded, "1"))
	for _, tt := range []struct {
		caller Kind
		kind   func(error) bool
	}{{Node, errdefs.IsUnavailable}, {User, errdefs.IsPermissionDenied}, {Anyone, errdefs.IsPermissionDenied}} {
		c := &call{caller: Caller{Kind: tt.caller}, office: &office{}, method: &method{policy: &rpcv1.Policy{Leader: true}}}
		if err := (&Server{}).forwardedCaller(ctx, c); !tt.kind(err) {
			t.Errorf("carried by a caller of kind %v: %v", tt.caller, err)
		}
	}
}
