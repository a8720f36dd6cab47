package witness

import (
	"context"
	"net"
	"path"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

type ownKey struct{}

// Own returns ctx for work that the swarm does by itself and that belongs in the
// audit trail all the same, under the name did.
func Own(ctx context.Context, did string) context.Context {
	return context.WithValue(ctx, ownKey{}, did)
}

// Deed says who makes the call that ctx belongs to, and what it is; nil if nobody
// does.
func Deed(ctx context.Context) *logv1.Deed {
	if c, ok := rpc.FromContext(ctx); ok {
		return deedOf(c)
	}
	if did, ok := ctx.Value(ownKey{}).(string); ok {
		return &logv1.Deed{Who: audit.Swarm, Did: did}
	}
	return nil
}

func deedOf(c rpc.Caller) *logv1.Deed {
	return &logv1.Deed{
		Who: c.Key(), User: c.Person.User.Bytes(), On: c.At.Bytes(), From: hostOf(c.Address), Via: c.Via.Bytes(), Did: path.Base(c.Method),
	}
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
