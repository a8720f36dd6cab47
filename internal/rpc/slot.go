package rpc

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// A slot is where a service's implementation is mounted.
type slot struct {
	server *Server

	mu   sync.RWMutex // guards impl; held for memory only
	impl any
}

func (sl *slot) set(impl any) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.impl = impl
}

func (sl *slot) get() any {
	sl.mu.RLock()
	defer sl.mu.RUnlock()
	return sl.impl
}

// wrap returns desc with handlers that look the implementation up per call. The
// generated unary handlers touch it only after the interceptor let the call in,
// and the interceptor knows a nil one.
func (sl *slot) wrap(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	out := &grpc.ServiceDesc{ServiceName: desc.ServiceName, HandlerType: desc.HandlerType, Metadata: desc.Metadata}
	for _, m := range desc.Methods {
		next := m.Handler
		m.Handler = func(_ any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			return next(sl.get(), ctx, dec, i)
		}
		out.Methods = append(out.Methods, m)
	}
	for _, st := range desc.Streams {
		next := st.Handler
		st.Handler = func(_ any, stream grpc.ServerStream) error {
			impl := sl.get()
			if impl == nil {
				return sl.server.unserved()
			}
			return next(impl, stream)
		}
		out.Streams = append(out.Streams, st)
	}
	return out
}

// unserved says why nothing is mounted where a call was meant to go.
func (s *Server) unserved() error {
	if s.cfg.Shut != nil {
		if err := s.cfg.Shut(); err != nil {
			return err
		}
	}
	if s.cfg.Coming != nil && s.cfg.Coming() {
		return Refuse(Errorf(errdefs.ErrUnavailable, "this manager is starting or stopping"), "try again in a moment")
	}
	return s.notManager()
}

func (s *Server) notManager() error {
	if s.cfg.Managers == nil {
		return RefuseNotManager(nil)
	}
	return RefuseNotManager(s.cfg.Managers())
}
