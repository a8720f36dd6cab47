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
	"fmt"
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
	remote  Remote
	at      int // the host in use
	cc      *grpc.ClientConn
	contact bool // the host in use is no manager that is known not to hear the quorum
	bound   bool // to hosts that know this caller as the present one does
	told    bool // that answers may be old
	warned  bool // that the user's certificate is of a root that is being rotated
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
