package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// revoke removes nodes, each of which has a stream open at every manager and asks
// there for more, and measures how long it is until each manager has cut the one and
// refuses the other.
func revoke(ctx context.Context, s *stage) error {
	f, err := enlist(ctx, s.swarm, min(s.agents, s.pace.trials))
	if err != nil {
		return err
	}
	for i, m := range f.members {
		if err := s.remove(ctx, m, s.swarm.managers[i%len(s.swarm.managers)]); err != nil {
			return fmt.Errorf("trial %d: %w", i+1, err)
		}
	}
	return nil
}

// A stay is what a removed node has and wants at one manager.
type stay struct {
	member *member
	stream dispatchv1.Dispatch_SessionClient
	asks   *grpc.ClientConn // its connection for new calls
	// cut is when the stream ended, refused when a new call was not let in.
	cut, refused time.Time
}

// remove takes one node out through a manager.
func (s *stage) remove(ctx context.Context, m *member, through *process) error {
	ctx, stop := context.WithTimeoutCause(ctx, patience, fmt.Errorf("a removed node is not cut off everywhere after %v", patience))
	defer stop()
	stays := make([]*stay, 0, len(s.swarm.managers))
	for _, p := range s.swarm.managers {
		x, end, err := m.stayAt(ctx, p.address)
		if err != nil {
			return err
		}
		defer end()
		stays = append(stays, x)
	}
	g, watching := errgroup.WithContext(ctx)
	for _, x := range stays {
		g.Go(func() error { return x.awaitCut() })
		g.Go(func() error { return x.awaitRefusal(watching) })
	}
	asked := time.Now()
	_, err := controlv1.NewControlClient(through.conn).RemoveNode(ctx, &controlv1.RemoveNodeRequest{
		RequestId: conn.RequestID(), Ref: m.node().String(), Force: true,
	})
	answered := time.Now()
	if err != nil {
		stop() // ends those who wait
		return errors.Join(err, g.Wait())
	}
	if err := g.Wait(); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	s.note("node rm answered", "ms", plain, millis(answered.Sub(asked)))
	for _, x := range stays {
		s.note(callsRefused+afterRequest, "ms", plain, millis(x.refused.Sub(asked)))
		s.note(callsRefused+afterAnswer, "ms", plain, millis(max(0, x.refused.Sub(answered))))
		s.note(streamsCut+afterRequest, "ms", plain, millis(x.cut.Sub(asked)))
		s.note(streamsCut+afterAnswer, "ms", plain, millis(max(0, x.cut.Sub(answered))))
	}
	return nil
}

const (
	callsRefused = "new calls refused"
	streamsCut   = "open streams cut"
	afterRequest = ", after the request"
	afterAnswer  = ", after the answer"
)

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// The counters of the sessions that a removed node has: a new one is refused, as
// the older, without disturbing the one that is open.
const (
	openSession  = 1 << 40
	olderSession = 1
)

// stayAt opens a session of the member at a manager.
func (m *member) stayAt(ctx context.Context, address string) (x *stay, end func(), err error) {
	dial := func() (*grpc.ClientConn, error) {
		return rpc.Dial(address, rpc.ClientTLS(m.holder, rpc.Peer{}), rpc.Through(m.dial)...)
	}
	held, err := dial()
	if err != nil {
		return nil, nil, err
	}
	asks, err := dial()
	if err != nil {
		return nil, nil, errors.Join(err, held.Close())
	}
	end = func() { _, _ = held.Close(), asks.Close() } // nothing is expected of them any more
	x = &stay{member: m, asks: asks}
	resp, err := x.open(ctx, held, openSession)
	if err == nil && resp.GetEnd() != nil {
		err = fmt.Errorf("the session was ended: %s", resp.GetEnd().GetWords())
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("open a session at %s: %w", address, err)
	}
	return x, end, nil
}

// open opens a session with a counter and returns the first answer.
func (x *stay) open(ctx context.Context, at *grpc.ClientConn, counter uint64) (*dispatchv1.SessionResponse, error) {
	stream, err := dispatchv1.NewDispatchClient(at).Session(ctx)
	if err != nil {
		return nil, err
	}
	hello := &rpcv1.Hello{Boot: x.member.node().Bytes()}
	err = stream.Send(&dispatchv1.SessionRequest{Beat: 1, Open: &dispatchv1.Open{Hello: hello, Session: counter}})
	if err != nil && !errors.Is(err, io.EOF) { // else the answer says why it is over
		return nil, err
	}
	if counter == openSession {
		x.stream = stream
	}
	return stream.Recv()
}

// awaitCut returns when the open session ends.
func (x *stay) awaitCut() error {
	for {
		if _, err := x.stream.Recv(); err != nil {
			x.cut = time.Now()
			if !denied(err) && !errdefs.IsUnavailable(err) { // a connection that is closed is as good
				return fmt.Errorf("the open session ended otherwise: %w", err)
			}
			return nil
		}
	}
}

// askEvery is how often a removed node asks each manager for more.
const askEvery = 2 * time.Millisecond

// awaitRefusal asks for another session until the node is refused for who it is.
func (x *stay) awaitRefusal(ctx context.Context) error {
	for {
		once, stop := context.WithCancel(ctx)
		_, err := x.open(once, x.asks, olderSession)
		stop()
		if denied(err) {
			x.refused = time.Now()
			return nil
		}
		if !wait(ctx, askEvery) {
			return ctx.Err()
		}
	}
}

func denied(err error) bool { return errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) }
