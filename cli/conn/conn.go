// Package conn is a command's way to a daemon: which socket, for how long, and
// what is tried again.
//
// It owns the flags --host, --run-dir, --timeout and --stale, the choice among
// several hosts and the retries. It does not know what is asked.
//
// Invariant: a changing call is repeated only with the request id of its first
// try, so a retry never does a thing twice (R10).
package conn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
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
	at      int // the host in use
	cc      *grpc.ClientConn
	stale   bool
	told    bool // that answers may be old
	waiting string
}

// Open returns a connection to the first of hosts that answers, or an error that
// says how to start a daemon.
func Open(ctx context.Context, s *say.Streams, hosts []Host) (*Conn, error) {
	c := &Conn{streams: s, hosts: hosts, at: -1, waiting: "the daemon to answer"}
	return c, c.next(ctx)
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

// next moves on to the next host that answers, beginning behind the present one.
func (c *Conn) next(ctx context.Context) error {
	var errs []error
	for i := range c.hosts {
		at := (c.at + 1 + i) % len(c.hosts)
		if err := c.hosts[at].knock(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		cc, err := rpc.DialUnix(c.hosts[at].Path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.Close()
		c.cc, c.at = cc, at
		return nil
	}
	return say.Missing(hintFor(errs), "%s", errors.Join(errs...).Error())
}

// knock reports whether somebody listens.
func (h Host) knock(ctx context.Context) error {
	d := net.Dialer{Timeout: knockTime}
	k, err := d.DialContext(ctx, "unix", h.Path)
	if err != nil {
		return unreachable(h.Path, err)
	}
	return k.Close()
}

// RequestID draws the id that makes a changing call safe to repeat.
func RequestID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says its contract
	return b
}

// A Method is a method of the Control client: controlv1.ControlClient.ListNodes.
type Method[Q, A any] func(controlv1.ControlClient, context.Context, Q, ...grpc.CallOption) (A, error)

// Read asks once at each host until one answers.
func Read[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (A, error) {
	for tries := 1; ; tries++ {
		var header metadata.MD
		a, err := method(controlv1.NewControlClient(c.cc), ctx, q, grpc.Header(&header))
		if err == nil {
			c.markStale(header)
			return a, nil
		}
		if !moved(err) || tries >= len(c.hosts) && c.hosts[c.at].knock(ctx) == nil {
			return a, err
		}
		if nerr := c.next(ctx); nerr != nil {
			return a, nerr
		}
		if tries > 2*len(c.hosts) {
			return a, err
		}
	}
}

// Change makes a changing call, and again with the same request while its
// outcome is unknown or nobody can carry it out, until ctx ends.
func Change[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (A, error) {
	pause := firstPause
	for {
		a, err := method(controlv1.NewControlClient(c.cc), ctx, q)
		if err == nil || !again(err) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
		if moved(err) {
			if nerr := c.next(ctx); nerr != nil {
				err = nerr // somebody may be back by the next try
			}
		}
	}
}

// Control returns the plain client, for streams.
func (c *Conn) Control() controlv1.ControlClient { return controlv1.NewControlClient(c.cc) }

// Local returns what the daemon answers for itself.
func (c *Conn) Local() localv1.LocalClient { return localv1.NewLocalClient(c.cc) }

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

// Resume makes a broken stream's connection good again.
func (c *Conn) Resume(ctx context.Context, err error) error {
	if !again(err) {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(firstPause):
	}
	return c.next(ctx)
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
