package events

import (
	"context"
	"time"

	"github.com/skep-project/skep/cli/conn"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// A reader reads events, at one manager after the other.
type reader struct {
	api *conn.Conn
	// req is what to ask next: it moves on with every index that was read.
	req   *controlv1.WatchEventsRequest
	limit time.Duration
	write func([]event) error

	ready []event // of the index that is not closed yet
}

// run reads until the time asked for, an interrupt, or until no manager has
// answered for the limit.
func (r *reader) run(ctx context.Context) error {
	return conn.Follow(ctx, r.api, controlv1.ControlClient.WatchEvents, r.req, r.limit, conn.Listener[controlv1.WatchEventsResponse]{
		Begin: func() { r.ready = nil }, // what was not closed comes again
		Take:  r.take,
	})
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
