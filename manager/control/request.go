package control

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// request is a message that changes something.
type request interface {
	proto.Message
	GetRequestId() []byte
}

// requestIDBytes is the size of a request id.
const requestIDBytes = 16

// identify returns what makes msg the request it is: who asks, its id, and the
// hash of what it asks for, so that an id used twice for different things is seen.
func identify(ctx context.Context, msg request) (*logv1.Request, error) {
	if n := len(msg.GetRequestId()); n != requestIDBytes {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "request id of %d bytes: want %d", n, requestIDBytes)
	}
	caller, ok := rpc.FromContext(ctx)
	if !ok {
		return nil, rpc.Errorf(errdefs.ErrPermissionDenied, "nobody is known to call")
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write([]byte(msg.ProtoReflect().Descriptor().FullName())) // a hash never fails to be written to
	h.Write([]byte{0})
	h.Write(data)
	return &logv1.Request{Caller: caller.Key(), Id: msg.GetRequestId(), Hash: h.Sum(nil)}, nil
}

// An answer says how a change ended: the entry it is in, and whether that was
// an earlier try's.
type answer struct {
	index   uint64
	objects []id.ID
	before  bool
}

// earlier returns the answer that req already has, if it has one. It is asked
// before anything is looked up: the retry of a removal finds nothing to remove.
func (s *Server) earlier(ctx context.Context, req *logv1.Request) (answer, bool, error) {
	if s.snapshot().Answered(req.GetCaller(), req.GetId()) == nil {
		return answer{}, false, nil
	}
	a, err := s.change(ctx, req, func(*store.Tx) error { return nil })
	return a, a.before, err
}

// change runs fn as the one transaction of req.
func (s *Server) change(ctx context.Context, req *logv1.Request, fn func(*store.Tx) error, objects ...id.ID) (answer, error) {
	for _, x := range objects {
		req.Objects = append(req.Objects, x.Bytes())
	}
	index, err := s.cfg.DB.Update(ctx, req, fn)
	if d, ok := errors.AsType[*store.Duplicate](err); ok {
		return answer{index: d.Index, objects: d.Objects, before: true}, nil
	}
	return answer{index: index, objects: objects}, err
}

// first returns the one object of an answer.
func (a answer) first() id.ID {
	if len(a.objects) == 0 {
		return id.ID{}
	}
	return a.objects[0]
}
