package swarm

import (
	"context"
	"errors"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/user"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var (
	errQuiet   = errors.New("no manager answers")
	errOverdue = errors.New("the deadline is over")
	errWatched = errors.New("the end was seen")
)

// A watched thing is followed by what is shown of the root.
type watched interface {
	// left is how long it has until it is overdue; false: it is never.
	left(v *controlv1.RootView) (time.Duration, bool)
	// take shows one view; an error says that there is nothing more to follow.
	take(v *controlv1.RootView) error
	// ended says how it ended, by what take said, and overdue for whom it waits.
	ended(end error) error
	overdue() error
}

// watchRoot follows x until it is over or overdue, at one manager after the other. A
// user who watches a rotation of the root follows it: else it would wait for him, and
// leave him behind.
func watchRoot(ctx context.Context, api *conn.Conn, limit time.Duration, x watched) error {
	outer := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(limit, func() { stop(errQuiet) })
	defer silence.Stop()
	var late *time.Timer
	var broke error
	var self follows
	for {
		stream, err := conn.Watch(ctx, api, controlv1.ControlClient.WatchRoot, &controlv1.WatchRootRequest{}, broke)
		if err != nil && (broke == nil || errors.Is(err, broke)) && context.Cause(ctx) == nil {
			return err
		}
		for err == nil {
			var m *controlv1.WatchRootResponse
			if m, err = stream.Recv(); err != nil {
				silence.Reset(limit)
				break
			}
			silence.Stop()
			if late != nil {
				late.Stop()
				late = nil
			}
			if d, ok := x.left(m.GetRoot()); ok {
				late = time.AfterFunc(d, func() { stop(errOverdue) })
			}
			if end := x.take(m.GetRoot()); end != nil {
				if late != nil {
					late.Stop()
				}
				return x.ended(end)
			}
			self.follow(ctx, api, m.GetRoot(), limit)
		}
		switch {
		case outer.Err() != nil:
			return outer.Err()
		case rpc.RefusalOf(err).GetNotManager() != nil && api.Hosts() == 1:
			return err // it does not become one by waiting
		case errors.Is(context.Cause(ctx), errOverdue):
			return x.overdue()
		case errors.Is(context.Cause(ctx), errQuiet):
			return say.Missing("--timeout gives it longer; it goes on: ctl swarm ca shows how far it is",
				"gave up after %v waiting for a manager to answer", limit)
		}
		broke = err
	}
}

// follows is how far the user who watches has followed a rotation himself.
type follows struct{ failed bool }

// follow renews the certificate of the context in use when the root signs that is to
// follow, and goes on with it. What it cannot do it says once: the rotation tells of
// him who has not followed.
func (f *follows) follow(ctx context.Context, api *conn.Conn, v *controlv1.RootView, limit time.Duration) {
	who, name := api.Context()
	r := v.GetRotation()
	if f.failed || name == "" || r == nil || r.GetPhase() == modelv1.RootPhase_ROOT_PHASE_TRUST {
		return
	}
	root := ca.RootDigest(r.GetTarget())
	if who.Credential.SignedBy(root) {
		return
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	next, err := user.Abreast(ctx, api, name, root)
	if err != nil {
		f.failed = true
		api.Streams().Warn("your certificate is of the former root and was not renewed: " + err.Error())
		return
	}
	api.Become(next)
}
