package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// A pipe is this manager's way to the leader's desk: a Relay stream, or the desk
// itself if this manager leads.
type pipe interface {
	Send(*dispatchv1.RelayRequest) error
	Recv() (*dispatchv1.RelayResponse, error)
}

// runUplink passes on what the sessions tell, to whoever leads, until ctx ends.
func (s *Server) runUplink(ctx context.Context) error {
	for attempt := 0; ctx.Err() == nil; {
		self, leader, changed := s.cfg.Raft.Leader()
		err := s.reach(ctx, self, leader, changed)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			attempt = 0
		default:
			attempt++
			if !errors.Is(err, errClosed) && attempt == 3 {
				s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "leader cannot be told what nodes report; trying on",
					slog.String("node", leader.String()), slog.Any("err", err))
			}
			pause(ctx, attempt, changed)
		}
	}
	return ctx.Err()
}

// pause waits a little longer with each attempt, at most half a second, or
// until who leads has changed.
func pause(ctx context.Context, attempt int, changed <-chan struct{}) {
	d := min(500*time.Millisecond, time.Duration(attempt)*20*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}

// reach connects to the leader and pumps until the connection or the leadership
// ends. A nil error means that it was connected.
func (s *Server) reach(ctx context.Context, self bool, leader id.ID, changed <-chan struct{}) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	switch {
	case self:
		d, opened := s.openDesk()
		if d == nil {
			return waitAny(ctx, opened, changed)
		}
		l, err := d.connect(s.cfg.Self)
		if err != nil {
			return waitAny(ctx, opened, changed)
		}
		defer d.disconnect(l)
		return s.pump(ctx, stop, &localPipe{ctx: ctx, desk: d, line: l}, changed)
	case leader.IsZero():
		return waitAny(ctx, changed, changed)
	}
	conn, err := s.cfg.Raft.Dial(ctx)
	if err != nil {
		return fmt.Errorf("dial the leader: %w", err)
	}
	stream, err := dispatchv1.NewDispatchClient(conn).Relay(ctx)
	if err != nil {
		return fmt.Errorf("open a relay to the leader: %w", err)
	}
	return s.pump(ctx, stop, stream, changed)
}

func waitAny(ctx context.Context, a, b <-chan struct{}) error {
	select {
	case <-ctx.Done():
	case <-a:
	case <-b:
	}
	return nil
}

// pump sends what the sessions tell and hears what the leader has counted,
// until the pipe breaks or who leads has changed. stop ends the pipe.
func (s *Server) pump(ctx context.Context, stop context.CancelFunc, p pipe, changed <-chan struct{}) error {
	req := s.sessions.whole(time.Now())
	req.Hello = s.cfg.Hello()
	if err := p.Send(req); err != nil {
		return fmt.Errorf("tell the leader of the sessions: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			resp, err := p.Recv()
			if err != nil {
				return fmt.Errorf("hear from the leader: %w", err)
			}
			s.sessions.heard(resp)
		}
	})
	g.Go(func() error { return s.tell(ctx, p, changed) })
	<-ctx.Done()
	stop() // ends the pipe, so that Recv returns
	err := g.Wait()
	if errors.Is(err, errLeaderChanged) {
		return nil
	}
	return err
}

// tell sends what is new, and from time to time the clock here at the least: a
// manager without sessions has no other news, and the leader holds its own clock
// against those of all.
func (s *Server) tell(ctx context.Context, p pipe, changed <-chan struct{}) error {
	clock := time.NewTicker(clockPeriod)
	defer clock.Stop()
	for {
		var req *dispatchv1.RelayRequest
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			return errLeaderChanged
		case <-s.sessions.wake:
		case <-clock.C:
			req = &dispatchv1.RelayRequest{Clock: time.Now().UnixNano()}
		}
		if news := s.sessions.news(time.Now()); news != nil {
			req = news
		}
		if req == nil {
			continue
		}
		if err := p.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("tell the leader: %w", err)
		}
	}
}

var errLeaderChanged = errors.New("another leader")

// localPipe is the way to the desk of this same manager.
type localPipe struct {
	ctx  context.Context //nolint:containedctx // the pipe lives as long as its pump, like a stream
	desk *desk
	line *line
	told uint64
}

func (p *localPipe) Send(req *dispatchv1.RelayRequest) error { return p.desk.hear(p.line, req) }

func (p *localPipe) Recv() (*dispatchv1.RelayResponse, error) {
	for {
		if resp := p.line.answer(p.told); resp != nil {
			p.told = resp.GetSequence()
			return resp, nil
		}
		select {
		case <-p.ctx.Done():
			return nil, p.ctx.Err()
		case <-p.line.wake:
		}
		if p.desk.done() {
			return nil, errClosed
		}
	}
}
