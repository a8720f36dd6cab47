package conn

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// probeTime is how long a manager may take to show that it hears the quorum, when
// another has said that it does not: so a refusal still comes within 3 seconds.
const probeTime = 400 * time.Millisecond

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
	if err := c.onNode(); err != nil {
		return a, err
	}
	return method(localv1.NewLocalClient(c.cc), ctx, q)
}

// onNode refuses what only a node's own daemon does, of a manager that is reached
// over the network.
func (c *Conn) onNode() error {
	h := c.hosts[c.at]
	if h.Address == "" {
		return nil
	}
	return say.Hinted(rpc.Errorf(errdefs.ErrFailedPrecondition, "this is done on the node itself, and %s is reached over the network", h),
		"run the command on that node, or name this host's own daemon: --context default")
}

// electionTime is for how long a read waits out that no host can answer just now: the
// managers have lost their leader and elect another.
const electionTime = 2 * time.Second

// Read asks each host in turn until one answers. If there are several and none can, it
// asks them again for electionTime.
func Read[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (a A, err error) {
	if err := c.open(ctx); err != nil {
		return a, err
	}
	pause, began := firstPause, time.Now()
	for tries := 1; ; tries++ {
		var header metadata.MD
		a, err = method(controlv1.NewControlClient(c.cc), ctx, q, grpc.Header(&header))
		if err == nil {
			c.markStale(header)
			return a, nil
		}
		if !elsewhere(err) {
			return a, err
		}
		if tries >= len(c.hosts) {
			if len(c.hosts) == 1 || !again(err) || time.Since(began) >= electionTime || !rest(ctx, pause) {
				return a, err
			}
			pause, tries = min(2*pause, lastPause), 0
		}
		if !c.leave(ctx, &err) {
			return a, err
		}
	}
}

// rest waits for d; false if ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// leave moves on from a host that ended a call with err to one that may do
// better. It reports whether there is one; if not, and nobody answers at all, err
// says that.
func (c *Conn) leave(ctx context.Context, err *error) bool {
	if rpc.RefusalOf(*err).GetNoQuorum() == nil {
		if nerr := c.next(ctx); nerr != nil {
			*err = nerr
			return false
		}
		return true
	}
	for range len(c.hosts) - 1 {
		if c.next(ctx) != nil {
			return false
		}
		if c.hears(ctx) {
			return true
		}
	}
	return false
}

// hears reports whether the manager in use hears the quorum.
func (c *Conn) hears(ctx context.Context) bool {
	ctx, stop := context.WithTimeout(ctx, probeTime)
	defer stop()
	_, err := controlv1.NewControlClient(c.cc).ListManagers(ctx, &controlv1.ListManagersRequest{}) // every user may
	return err == nil
}

// Watch opens a stream at the host in use. broke is the error of the one before,
// nil if there was none: what another host or some time may mend is waited out
// until ctx ends, and anything else comes back.
func Watch[Q, S any](ctx context.Context, c *Conn, method Method[Q, S], q Q, broke error) (s S, err error) {
	if broke != nil {
		if !c.mends(ctx, broke) {
			return s, broke
		}
		for {
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

// mends reports whether time or another host may mend what a stream ended with.
// A daemon that stops may cancel its streams; the caller's own end is no such.
func (c *Conn) mends(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (Again(err) || errors.Is(err, context.Canceled) || len(c.hosts) > 1 && elsewhere(err))
}

// Change makes a changing call, and again with the same request while its
// outcome is unknown or nobody can carry it out, until ctx ends. It is refused
// for want of a quorum or a manager only if that is what every host says, and
// nothing may have happened before.
func Change[Q, A any](ctx context.Context, c *Conn, method Method[Q, A], q Q) (a A, err error) {
	if err := c.open(ctx); err != nil {
		return a, err
	}
	pause, refused, unsure := firstPause, 0, false
	for {
		a, err = method(controlv1.NewControlClient(c.cc), ctx, q)
		if err == nil || !again(err) && !elsewhere(err) {
			return a, err
		}
		unsure = unsure || mayBeDone(err)
		c.bound = unsure
		if again(err) {
			refused = 0
		} else if refused++; refused >= len(c.hosts) && (!unsure || rpc.RefusalOf(err).GetNotManager() != nil) {
			return a, notKnown(err, unsure) // who is no manager does not become one by waiting
		}
		if !rest(ctx, pause) {
			return a, notKnown(err, unsure)
		}
		pause = min(2*pause, lastPause)
		moved := err
		if elsewhere(err) && !c.leave(ctx, &moved) && rpc.RefusalOf(err).GetNoQuorum() != nil && !unsure {
			return a, err
		}
	}
}

// mayBeDone reports whether a call that ended with err may have been carried out.
func mayBeDone(err error) bool {
	r := rpc.RefusalOf(err)
	return r.GetUnknown() != nil || r == nil && errdefs.IsUnavailable(err)
}

// notKnown says of a change that was given up that it may have happened.
func notKnown(err error, unsure bool) error {
	if !unsure {
		return err
	}
	return say.Hinted(&unsureError{err}, "look before it is asked for again")
}

// unsureError is a change that may have been made.
type unsureError struct{ error }

func (e *unsureError) Error() string { return "whether it was done is not known: " + e.error.Error() }
func (e *unsureError) Unwrap() error { return e.error }

// MayBeDone reports whether a change that Change gave up with err may have been
// made all the same.
func MayBeDone(err error) bool {
	_, unsure := errors.AsType[*unsureError](err)
	return unsure
}

// Again reports whether a call that ended with err may be made once more later:
// its outcome is unknown, or nobody was there to carry it out.
func Again(err error) bool {
	return again(err) || rpc.RefusalOf(err).GetNoQuorum() != nil || say.Code(err) == say.Unreachable
}

// again reports whether the same request may be made once more: its outcome is
// unknown, or nobody was there to carry it out. A swarm without a quorum has
// waited already and is not asked again.
func again(err error) bool {
	r := rpc.RefusalOf(err)
	return r.GetUnknown() != nil || errdefs.IsUnavailable(err) && r.GetNoQuorum() == nil && r.GetMustRejoin() == nil
}

// elsewhere reports whether another host may answer where this one did not.
func elsewhere(err error) bool {
	return errdefs.IsUnavailable(err) || rpc.RefusalOf(err).GetNotManager() != nil
}
