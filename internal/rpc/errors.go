package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// NoLeader is what a call says that needs the leader and found none in time.
const NoLeader = "The swarm does not have a leader. It's possible that too few managers are online. " +
	"Make sure more than half of the managers are online."

// kinded is an error whose text is only its message and whose kind is one of
// errdefs.
type kinded struct {
	kind error
	msg  string
}

func (e *kinded) Error() string { return e.msg }
func (e *kinded) Unwrap() error { return e.kind }

// Errorf returns an error of the kind (one of containerd/errdefs) that says only
// what format says. Use fmt.Errorf with %w where the kind's own words help.
func Errorf(kind error, format string, args ...any) error {
	return &kinded{kind: kind, msg: fmt.Sprintf(format, args...)}
}

// refused is an error with what the client acts on.
type refused struct {
	err     error
	refusal *rpcv1.Refusal
}

func (e *refused) Error() string { return e.err.Error() }
func (e *refused) Unwrap() error { return e.err }

// Refuse returns err, which has a kind of errdefs in its chain, with a hint (one
// sentence without a full stop that says what to do next, or empty) and at most
// one act: *rpcv1.NotLeader, MustRejoin, NoQuorum, Behind, NotManager or Unknown.
// Both reach the client.
func Refuse(err error, hint string, act ...proto.Message) error {
	r := &rpcv1.Refusal{Hint: hint}
	for _, a := range act {
		switch a := a.(type) {
		case *rpcv1.NotLeader:
			r.Act = &rpcv1.Refusal_NotLeader{NotLeader: a}
		case *rpcv1.MustRejoin:
			r.Act = &rpcv1.Refusal_MustRejoin{MustRejoin: a}
		case *rpcv1.NoQuorum:
			r.Act = &rpcv1.Refusal_NoQuorum{NoQuorum: a}
		case *rpcv1.Behind:
			r.Act = &rpcv1.Refusal_Behind{Behind: a}
		case *rpcv1.NotManager:
			r.Act = &rpcv1.Refusal_NotManager{NotManager: a}
		case *rpcv1.Unknown:
			r.Act = &rpcv1.Refusal_Unknown{Unknown: a}
		}
	}
	return &refused{err: err, refusal: r}
}

// RefusalOf returns what the client should act on, or nil. It is never to be
// changed.
func RefusalOf(err error) *rpcv1.Refusal {
	if r, ok := errors.AsType[*refused](err); ok {
		return r.refusal
	}
	return nil
}

// HintOf returns what to do next about err, or nothing.
func HintOf(err error) string { return RefusalOf(err).GetHint() }

// RefuseNoLeader is the refusal of a call that found no leader. unreachable
// names managers ("node-2 (10.0.0.2:2377)"); needed and reachable count voters.
func RefuseNoLeader(unreachable []string, needed, reachable int) error {
	hint := "start the managers that are down; if they are lost for good: ctl swarm init --force-new-cluster"
	if len(unreachable) > 0 {
		hint = fmt.Sprintf("unreachable managers: %s; %d of the %d needed answer", join(unreachable), reachable, needed)
	}
	return Refuse(Errorf(errdefs.ErrUnavailable, "%s", NoLeader), hint, &rpcv1.NoQuorum{
		Unreachable: unreachable, Needed: uint32(max(0, needed)), Reachable: uint32(max(0, reachable))})
}

// RefuseNotManager is the refusal of a node that does no manager's work.
// addresses are managers it knows of.
func RefuseNotManager(addresses []string) error {
	hint := `run the command on a manager, or make this node one: "ctl swarm init" or "ctl swarm join"`
	if len(addresses) > 0 {
		hint = "managers of this swarm answer at " + join(addresses)
	}
	return Refuse(Errorf(errdefs.ErrFailedPrecondition, "this node is not a manager"), hint,
		&rpcv1.NotManager{Addresses: addresses})
}

func join(words []string) string {
	out := ""
	for i, w := range words {
		if i > 0 {
			out += ", "
		}
		out += w
	}
	return out
}

// toStatus is the one place that turns an error into a gRPC status.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var st *status.Status
	if s, ok := status.FromError(err); ok && RefusalOf(err) == nil {
		return s.Err()
	}
	st = status.New(codeOf(err), err.Error())
	if r := RefusalOf(err); r != nil {
		if with, derr := st.WithDetails(r); derr == nil {
			st = with
		}
	}
	return st.Err()
}

func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errdefs.IsConflict(err):
		return codes.Aborted // errgrpc would make it a failed precondition
	}
	return status.Code(errgrpc.ToGRPC(errdefs.Resolve(err)))
}

// fromStatus is its inverse, for the client: an error of an errdefs kind whose
// text is the server's, with the refusal if there is one.
func fromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	out := error(&kinded{kind: kindOf(s.Code()), msg: s.Message()})
	for _, d := range s.Details() {
		if r, ok := d.(*rpcv1.Refusal); ok {
			r, out = tellClock(out, r, time.Now())
			return &refused{err: out, refusal: r}
		}
	}
	return out
}

func kindOf(c codes.Code) error {
	kind := errgrpc.ToNative(status.Error(c, ""))
	if kind == nil {
		return errdefs.ErrUnknown
	}
	for _, k := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(kind, k) {
			return k
		}
	}
	return errdefs.Resolve(kind)
}
