package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
)

// A Listener takes what a stream tells.
type Listener[M any] struct {
	// Begin is called before each stream: of the one before, what was not whole
	// comes again.
	Begin func()
	// Take takes one message in. Its error ends the reading.
	Take func(*M) error
}

// Follow reads a stream to the end that was asked for, or until ctx ends, which is
// how one that has no end is meant to: then it returns nil if it has heard
// anything. When a stream breaks it asks q again, which Take has moved on, at
// another manager if need be; it gives up when none has answered for limit.
func Follow[Q, M any](ctx context.Context, c *Conn, method Method[Q, grpc.ServerStreamingClient[M]], q Q, limit time.Duration, l Listener[M]) error {
	f := &follower[M]{Listener: l}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	f.silence = time.AfterFunc(limit, func() { stop(errSilent) })
	defer f.silence.Stop()
	f.quiet = true
	var broke error
	for tries := 1; ; tries++ {
		stream, err := Watch(inner, c, method, q, broke)
		if err == nil {
			if err = f.read(stream); err == nil {
				return nil
			}
		} else if broke == nil || errors.Is(err, broke) && !errors.Is(context.Cause(inner), errSilent) {
			return f.ended(ctx, err)
		}
		switch {
		case f.lost != nil:
			return f.lost
		case ctx.Err() != nil:
			return f.ended(ctx, err)
		case errors.Is(context.Cause(inner), errSilent):
			return gaveUp(limit, broke)
		case !f.heard && tries >= c.Hosts() && rpc.RefusalOf(err).GetNoQuorum() != nil:
			return err
		}
		if !f.quiet {
			f.silence.Reset(limit)
			f.quiet = true
		}
		broke = err
	}
}

type follower[M any] struct {
	Listener[M]
	silence *time.Timer
	heard   bool  // a manager has answered
	quiet   bool  // and has not since the last stream broke
	lost    error // what was read could not be taken
}

// ended is the end of a reader that was interrupted, or that was refused.
func (f *follower[M]) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && f.heard {
		return nil
	}
	return err
}

// read reads one stream to its end; nil is the end that was asked for.
func (f *follower[M]) read(stream grpc.ServerStreamingClient[M]) error {
	f.Begin()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		f.silence.Stop()
		f.heard, f.quiet = true, false
		if f.lost = f.Take(m); f.lost != nil {
			return f.lost
		}
	}
}

var errSilent = errors.New("no manager answers")

// gaveUp says that nobody answered for as long as the user would wait.
func gaveUp(limit time.Duration, broke error) error {
	if broke == nil {
		broke = errSilent
	}
	return say.Hinted(fmt.Errorf("gave up after %v waiting for a manager to answer: %w", limit, broke), "--timeout gives it longer")
}
