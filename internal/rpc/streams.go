package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// cutGrace is how long a handler whose stream was cut may take to say why; then
// the connection is closed under it.
const cutGrace = 500 * time.Millisecond

// open is a stream that was let in.
type open struct {
	call *call
	// judge asks the Authorizer again.
	judge func() error
	cut   context.CancelCauseFunc
	ctx   context.Context //nolint:containedctx // the stream's: it is over when the stream is cut
}

// registry knows the open streams. The zero registry is empty.
type registry struct {
	mu   sync.Mutex // guards open; held for memory only
	open map[*open]struct{}
}

func (r *registry) add(o *open) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[*open]struct{}{}
	}
	r.open[o] = struct{}{}
}

func (r *registry) remove(o *open) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, o)
}

func (r *registry) all() []*open {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*open, 0, len(r.open))
	for o := range r.open {
		out = append(out, o)
	}
	return out
}

func (r *registry) cutAll(why error) {
	for _, o := range r.all() {
		o.cut(why)
	}
}

// cutError marks why a stream was cut, so that the client is told.
type cutError struct{ error }

func (e cutError) Unwrap() error { return e.error }

// stream is the chain of a stream.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		err = toStatus(s.recovered(recover(), info.FullMethod, err))
	}()
	c, err := s.enter(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if err := s.fresh(ss.Context(), c, ss.SetHeader); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(WithCaller(ss.Context(), c.caller))
	defer cancel(nil)
	o := &open{
		call:  c,
		judge: func() error { return s.recheck(ctx, c) },
		cut:   func(why error) { cancel(cutError{why}) },
		ctx:   ctx,
	}
	s.streams.add(o)
	defer s.streams.remove(o)
	defer s.closeLate(ctx, c)()

	s.shown(c) // now, and not when it ends
	err = next(srv, &servedStream{ServerStream: ss, ctx: ctx})
	if cut, ok := errors.AsType[cutError](context.Cause(ctx)); ok {
		err = cut.error
	}
	s.ended(c, err)
	return err
}

// closeLate closes the connection of a stream that was cut and whose handler
// does not return, for instance because it waits for the peer's next message.
// The function it returns ends the watch.
func (s *Server) closeLate(ctx context.Context, c *call) func() {
	var mu sync.Mutex // guards late and done
	var late *time.Timer
	done := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !done {
			late = time.AfterFunc(cutGrace, func() { _ = c.link.conn.Close() })
		}
	})
	return func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		done = true
		if late != nil {
			late.Stop()
		}
	}
}

// servedStream is a stream with the chain's context.
type servedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *servedStream) Context() context.Context { return s.ctx }

// RecvMsg takes nothing in any more once the stream was cut, though its handler may
// not have noticed.
func (s *servedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if cut, ok := errors.AsType[cutError](context.Cause(s.ctx)); ok {
		return cut.error
	}
	return nil
}

// Recheck asks the Authorizer about every open stream of a node or of a user with
// a certificate again and cuts those it refuses. Call it when a record of theirs,
// the membership or this node's office changed, and once a minute for what time
// alone ends. A refusal that is neither PermissionDenied nor Unauthenticated cuts
// nothing: a manager out of contact keeps its streams (R18); one that is no
// manager any more keeps none.
func (s *Server) Recheck() {
	for _, o := range s.streams.all() {
		c := o.call
		if c.caller.Kind != Node && c.caller.Person.IsZero() || o.ctx.Err() != nil {
			continue // cut already, if its handler has not noticed yet
		}
		err := o.judge()
		if err == nil || !errdefs.IsPermissionDenied(err) && !errdefs.IsUnauthorized(err) && RefusalOf(err).GetNotManager() == nil {
			continue
		}
		s.cfg.Log.Info("stream cut", slog.String("caller", c.caller.Key()),
			slog.String("method", c.method.name), slog.Any("err", err))
		o.cut(err)
	}
}

func (s *Server) recheck(ctx context.Context, was *call) error {
	c := &call{method: was.method, office: s.office.Load(), caller: was.caller, link: was.link}
	if c.caller.Kind == User {
		c.user = c.newUserProof(was.user.Since, was.user.Stale)
		c.user.Open = true
		return s.authoriseUser(ctx, c)
	}
	c.proof = c.newProof(was.proof.Since, was.proof.Stale)
	c.proof.Open = true
	_, err := s.authoriseNode(ctx, c)
	return err
}
