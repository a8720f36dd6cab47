// Package conn is a command's way to a daemon: which socket or manager, as whom,
// for how long, and what is tried again.
//
// It owns the flags --host, --context, --run-dir, --timeout and --stale, the
// choice among several hosts and the retries. It does not know what is asked.
//
// Invariant: a changing call is repeated only with the request id of its first
// try, and where it may have been done only as the same caller, so a retry never
// does a thing twice (R10).
package conn

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	knockTime  = 3 * time.Second
)

// A Conn asks a daemon. It is used by one goroutine at a time.
type Conn struct {
	streams *say.Streams
	hosts   []Host
	remote  Remote
	at      int // the host in use
	cc      *grpc.ClientConn
	bound   bool // to hosts that know this caller as the present one does
	told    bool // that answers may be old
	waiting string
	hint    string
}

// New returns a connection to the first of hosts that answers. It is made by the
// first call, so that a command line that makes no sense is refused first.
func New(s *say.Streams, hosts []Host) *Conn {
	return &Conn{streams: s, hosts: hosts, at: -1, waiting: "the daemon to answer"}
}

// open finds a host if none is in use. Its error says how to start a daemon.
func (c *Conn) open(ctx context.Context) error {
	if c.cc != nil {
		return nil
	}
	return c.next(ctx)
}

// Close ends the connection.
func (c *Conn) Close() {
	if c.cc != nil {
		_ = c.cc.Close() // nothing is in flight; the process is about to end
		c.cc = nil
	}
}

// Waiting says what the command waits for from now on; if its time is over, the
// error names it.
func (c *Conn) Waiting(format string, args ...any) { c.waiting = fmt.Sprintf(format, args...) }

// Background says that what was asked for goes on without ctl from now on, and
// which command shows how far it is.
func (c *Conn) Background(command string) {
	c.hint = fmt.Sprintf("it goes on in the background; %q shows how far it is", command)
}

// RequestID draws the id that makes a changing call safe to repeat.
func RequestID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says its contract
	return b
}

// A Method is a method of the Control client: controlv1.ControlClient.ListNodes.
type Method[Q, A any] func(controlv1.ControlClient, context.Context, Q, ...grpc.CallOption) (A, error)

// A LocalMethod is a method of the Local client: localv1.LocalClient.Info.
type LocalMethod[Q, A any] func(localv1.LocalClient, context.Context, Q, ...grpc.CallOption) (A, error)

// Ask makes a call to the daemon itself, once.
func Ask[Q, A any](ctx context.Context, c *Conn, method LocalMethod[Q, A], q Q) (a A, err error) {
	if err := c.open(ctx); err != nil {
		return a, err
	}
	if h := c.hosts[c.at]; h.Address != "" {
		return a, say.Hinted(rpc.Errorf(errdefs.ErrFailedPrecondition, "this is done on the node itself, and %s is reached over the network", h),
			"run the command on that node, or name this host's own daemon: --context default")
	}
	return method(localv1.NewLocalClient(c.cc), ctx, q)
}

// Read asks each host in turn until one answers.
func Read[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (a A, err error) {
	if err := c.open(ctx); err != nil {
		return a, err
	}
	for range c.hosts {
		var header metadata.MD
		a, err = method(controlv1.NewControlClient(c.cc), ctx, q, grpc.Header(&header))
		if err == nil {
			c.markStale(header)
			return a, nil
		}
		if !moved(err) || len(c.hosts) == 1 {
			return a, err
		}
		if err := c.next(ctx); err != nil {
			return a, err
		}
	}
	return a, err
}

// Watch opens a stream at the host in use; broke is the error of the one before,
// which decides whether there is to be another.
func Watch[Q, S any](ctx context.Context, c *Conn, method Method[Q, S], q Q, broke error) (s S, err error) {
	if broke != nil {
		if !again(broke) {
			return s, broke
		}
		for again(broke) { // somebody may come back
			if err := c.Pause(ctx); err != nil {
				return s, err
			}
			if c.next(ctx) == nil {
				break
			}
		}
	}
	if err := c.open(ctx); err != nil {
		return s, err
	}
	return method(controlv1.NewControlClient(c.cc), ctx, q)
}

// Change makes a changing call, and again with the same request while its
// outcome is unknown or nobody can carry it out, until ctx ends.
func Change[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (a A, err error) {
	if err := c.open(ctx); err != nil {
		return a, err
	}
	pause := firstPause
	for {
		a, err = method(controlv1.NewControlClient(c.cc), ctx, q)
		if err == nil || !again(err) {
			return a, err
		}
		c.bound = true
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
		if moved(err) {
			_ = c.next(ctx) // nobody there: somebody may be back by the next try
		}
	}
}

// Again reports whether a call that ended with err may be made once more: its
// outcome is unknown, or nobody was there to carry it out.
func Again(err error) bool { return again(err) }

// Pause waits for one poll of the streams, or until ctx ends.
func (c *Conn) Pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.streams.Poll):
		return nil
	}
}

// Streams returns what the command speaks to.
func (c *Conn) Streams() *say.Streams { return c.streams }

// again reports whether the same request may be made once more: its outcome is
// unknown, or nobody was there to carry it out. A swarm without a quorum has
// waited already and is not asked again.
func again(err error) bool {
	r := rpc.RefusalOf(err)
	return r.GetUnknown() != nil || errdefs.IsUnavailable(err) && r.GetNoQuorum() == nil && r.GetMustRejoin() == nil
}

// moved reports whether another host may answer where this one did not.
func moved(err error) bool {
	return errdefs.IsUnavailable(err) && rpc.RefusalOf(err).GetNoQuorum() == nil
}

// markStale tells once that an answer is old, and how old.
func (c *Conn) markStale(header metadata.MD) {
	f, ok := rpc.FreshnessOf(header)
	if c.told || !ok || !f.Stale {
		return
	}
	c.told = true
	switch {
	case f.InContact:
		c.streams.Note("stale: the last state this manager knows; the swarm was not asked")
	case f.Silence > 0:
		c.streams.Note("stale: the last state this manager knows; it lost the others %s ago", show.Age(f.Silence))
	default:
		c.streams.Note("stale: the last state this manager knows; it does not hear the others")
	}
}
