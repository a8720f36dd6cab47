package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// A sink is a pipe into which a manager's words fall.
type sink struct {
	ctx  context.Context //nolint:containedctx // the pipe ends with it, like a stream
	sent chan *dispatchv1.RelayRequest
}

func (s sink) Send(req *dispatchv1.RelayRequest) error {
	s.sent <- req
	return nil
}

func (s sink) Recv() (*dispatchv1.RelayResponse, error) {
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

// TestAManagerWithoutSessionsTellsItsClock: the leader would else hold its own
// clock against what this one's was when the line was opened.
func TestAManagerWithoutSessionsTellsItsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Server{cfg: Config{Hello: func() *rpcv1.Hello { return nil }}, sessions: newSessions()}
		ctx, stop := context.WithCancel(t.Context())
		out := sink{ctx: ctx, sent: make(chan *dispatchv1.RelayRequest, 1)}
		done := make(chan error, 1)
		go func() { done <- s.pump(ctx, stop, out, nil) }()
		if first := <-out.sent; !first.GetComplete() {
			t.Errorf("it said %v first, want all of its sessions", first)
		}
		for range 3 {
			before := time.Now()
			req := <-out.sent
			if waited := time.Since(before); waited != clockPeriod || req.GetClock() != time.Now().UnixNano() {
				t.Errorf("after %v it said that it is %v, want %v after %v", waited, time.Unix(0, req.GetClock()), time.Now(), clockPeriod)
			}
		}
		stop()
		<-done
	})
}

func TestALeaderTrustsItsClockUnlessMostPeersDiffer(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, tt := range []struct {
		name  string
		peers []time.Duration
		want  time.Duration
	}{
		{"alone there is nothing to compare with", nil, 0},
		{"one peer proves nothing", []time.Duration{time.Hour}, 0},
		{"two peers that agree prove it", []time.Duration{10 * s, 11 * s}, 10 * s},
		{"two peers that disagree prove nothing", []time.Duration{0, time.Hour}, 0},
		{"one bad clock of four is outvoted", []time.Duration{0, s, -s, time.Hour}, 0},
		{"most peers behind", []time.Duration{-9 * s, -8 * s, 0}, -8 * s},
		{"within tolerance", []time.Duration{5 * s, 4 * s}, 0},
	} {
		if got := off(tt.peers); got != tt.want {
			t.Errorf("%s: off(%v) = %v, want %v", tt.name, tt.peers, got, tt.want)
		}
	}
}
