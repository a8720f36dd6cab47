package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// links is one of each kind, and how many calls it may have open.
func links() map[string]struct {
	*link
	most int64
} {
	type entry = struct {
		*link
		most int64
	}
	return map[string]entry{
		"a stranger":    {&link{}, strangerStreams},
		"a worker":      {&link{node: &ca.Identity{Node: id.New(), Role: modelv1.Role_ROLE_WORKER, KeySHA256: ca.Digest{1}}}, workerStreams},
		"a manager":     {&link{node: &ca.Identity{Node: id.New(), Role: modelv1.Role_ROLE_MANAGER}}, maxStreams},
		"a user":        {&link{person: &ca.UserIdentity{User: id.New(), Name: "alice", KeySHA256: ca.Digest{2}}}, userStreams},
		"the root here": {&link{user: true}, maxStreams},
	}
}

func TestAConnectionHasSoManyCallsOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for who, l := range links() {
			ctx, end := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: l.link}))
			for i := range l.most {
				if _, err := s.tap(ctx, &tap.Info{FullMethodName: "/x/Y"}); err != nil {
					t.Fatalf("%s: call %d: %v", who, i+1, err)
				}
			}
			_, err := s.tap(ctx, &tap.Info{FullMethodName: "/x/Y"})
			if err = fromStatus(err); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "calls open on this connection") || HintOf(err) == "" {
				t.Errorf("%s: one more: %v, want refused in words", who, err)
			}
			end()
			synctest.Wait()
			if n := l.open.Load(); n != 0 {
				t.Errorf("%s: %d calls count as open when all have ended", who, n)
			}
		}
	})
}

// TestAMessageIsHereInTimeOrTheCallEnds: it is not before it is here that anybody
// could refuse it.
func TestAMessageIsHereInTimeOrTheCallEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.Offer(&controlv1.Control_ServiceDesc)
		s.Offer(&dispatchv1.Dispatch_ServiceDesc)
		ctx, end := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &link{user: true}}))
		defer end()
		once, err := s.tap(ctx, &tap.Info{FullMethodName: controlv1.Control_ListNodes_FullMethodName})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := s.tap(ctx, &tap.Info{FullMethodName: dispatchv1.Dispatch_Session_FullMethodName})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultTimeout)
		synctest.Wait()
		if !errors.Is(once.Err(), context.DeadlineExceeded) {
			t.Errorf("a call with one answer is open after %v: %v", defaultTimeout, once.Err())
		}
		if stream.Err() != nil {
			t.Errorf("a stream has ended: %v", stream.Err())
		}
		own, stop := context.WithTimeout(ctx, time.Hour)
		defer stop()
		if got, err := s.tap(own, &tap.Info{FullMethodName: cav1.Authority_Renew_FullMethodName}); err != nil || got != own {
			t.Errorf("a call that brings its deadline got another: %v", err)
		}
	})
}

// TestACertificateHasSoManyConnections, and gives each place back once.
func TestACertificateHasSoManyConnections(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := &doorway{log: slog.New(slog.NewTextHandler(&log, nil))}
	for who, l := range links() {
		most := map[string]int{"a worker": workerConns, "a user": userConns, "a stranger": maxStrangers}[who]
		if l.user {
			continue // it comes by another door
		}
		var in []net.Conn
		for range maxStrangers + 10 {
			near, far := net.Pipe()
			defer far.Close()
			c, err := d.place(near, l.link)
			if err != nil {
				_ = d.turnAway(near, "10.0.0.9:1", err)
				continue
			}
			in = append(in, c)
		}
		if most != 0 && len(in) != most || most == 0 && len(in) != maxStrangers+10 {
			t.Errorf("%s has %d connections, want %d (0: as many as there are)", who, len(in), most)
		}
		if most == 0 {
			continue
		}
		_, _ = in[0].Close(), in[0].Close() // gRPC may close it twice
		for i := range 2 {
			near, far := net.Pipe()
			defer far.Close()
			if _, err := d.place(near, l.link); (err == nil) != (i == 0) {
				t.Errorf("%s: place %d after one was given back: %v", who, i+1, err)
			}
		}
	}
	if !strings.Contains(log.String(), `msg="connection turned away" addr=10.0.0.9:1`) {
		t.Errorf("the log says %q", log.String())
	}
}

// TestAStrangerIsHeardForSoManyBytes and for so long.
func TestAStrangerIsHeardForSoManyBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &doorway{log: slog.New(slog.DiscardHandler)}
		near, far := net.Pipe()
		c, err := d.stranger(near)
		if err != nil {
			t.Fatal(err)
		}
		go func() { // ends when the other end does
			for {
				if _, err := far.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		n, err := io.Copy(io.Discard, c)
		if !errors.Is(err, errSpent) || n > strangerBytes || n < strangerBytes-32<<10 {
			t.Errorf("%d bytes were heard, then %v", n, err)
		}
		if _, ok := d.strangers.enter(struct{}{}, 1); !ok {
			t.Error("its place is still taken")
		}
		late, other := net.Pipe()
		defer other.Close()
		if c, err = d.stranger(late); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(began) != strangerLife {
			t.Errorf("it is heard for %v: %v", time.Since(began), err)
		}
	})
}

func TestHandshakesOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	var c crowd[string]
	for range handshakes {
		if _, ok := c.enter(BucketOf("fd00::1"), handshakes); !ok {
			t.Fatal("there is no place")
		}
	}
	if _, ok := c.enter(BucketOf("fd00::2"), handshakes); ok {
		t.Error("a neighbour of the same /64 has places of its own")
	}
	leave, ok := c.enter(BucketOf("fd00:0:0:1::1"), handshakes)
	if !ok {
		t.Fatal("another network has no place")
	}
	leave()
	leave()
	if len(c.there) != 1 {
		t.Errorf("%d are remembered, want 1", len(c.there))
	}
}
