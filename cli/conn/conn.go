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
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
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
