package events

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// A reader reads events, at one manager after the other.
type reader struct {
	api *conn.Conn
	// req is what to ask next: it moves on with every index that was read.
	req   *controlv1.WatchEventsRequest
	limit time.Duration
	write func([]event) error

	heard bool    // a manager has answered
	quiet bool    // and has not since the last stream broke
	lost  error   // what was read could not be written
	ready []event // of the index that is not closed yet
}

// run reads until the time asked for, an interrupt, or until no manager has
// answered for the limit.
func (r *reader) run(ctx context.Context) error {
	outer := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(r.limit, func() { stop(errSilent) })
	defer silence.Stop()
	r.quiet = true
	var broke error
	for tries := 1; ; tries++ {
		stream, err := conn.Watch(ctx, r.api, controlv1.ControlClient.WatchEvents, r.req, broke)
		if err == nil {
			if err = r.read(stream, silence); err == nil {
				return nil
			}
		} else if broke == nil || errors.Is(err, broke) && !errors.Is(context.Cause(ctx), errSilent) {
			return r.ended(outer, err)
		}
		switch {
		case r.lost != nil:
			return r.lost
		case outer.Err() != nil:
			return r.ended(outer, err)
		case errors.Is(context.Cause(ctx), errSilent):
			return gaveUp(r.limit, broke)
		case !r.heard && tries >= r.api.Hosts() && rpc.RefusalOf(err).GetNoQuorum() != nil:
			return err
		}
		if !r.quiet {
			silence.Reset(r.limit)
			r.quiet = true
		}
		broke = err
	}
}

// ended is the end of a reader that was interrupted, which is how it is meant to
// end, or that was refused.
func (r *reader) ended(outer context.Context, err error) error {
	if outer.Err() != nil && r.heard {
		return nil
	}
	return err
}

// read reads one stream to its end; nil is the end that was asked for.
func (r *reader) read(stream interface {
	Recv() (*controlv1.WatchEventsResponse, error)
}, silence *time.Timer,
) error {
	r.ready = nil // what was not closed comes again
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		silence.Stop()
		r.heard, r.quiet = true, false
		if r.lost = r.take(m); r.lost != nil {
			return r.lost
		}
	}
}

// take takes one message in; what is whole is written.
func (r *reader) take(m *controlv1.WatchEventsResponse) error {
	if m.GetReset_() {
		r.ready = append(r.ready, reset(m))
	}
	for _, v := range m.GetEvents() {
		r.ready = append(r.ready, newEvent(m, v))
	}
	if !m.GetLast() {
		return nil
	}
	index := m.GetIndex()
	r.req.After, r.req.Since = &index, 0
	ready := r.ready
	r.ready = nil
	if len(ready) == 0 {
		return nil
	}
	return r.write(ready)
}
