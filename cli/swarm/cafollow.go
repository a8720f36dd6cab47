package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A follower shows how far a rotation is until it ends.
type follower struct {
	api   *conn.Conn
	order *caOrder
	// id is the rotation's.
	id     []byte
	limit  time.Duration
	screen *progress.Screen // nil: quietly

	last *controlv1.RootView
}

func newFollower(api *conn.Conn, o *caOrder, id []byte, limit time.Duration) *follower {
	f := &follower{api: api, order: o, id: id, limit: limit}
	if s := api.Streams(); !o.quiet && !o.json {
		f.screen = &progress.Screen{W: s.Err}
		f.screen.Width, _ = s.Terminal()
	}
	return f
}

// show prints the root and says whether it is being rotated.
func (f *follower) show(v *controlv1.RootView) error {
	s := f.api.Streams()
	if f.order.json {
		return f.line(v)
	}
	l := newCALine(v)
	if v.GetCondemnation() != nil {
		c := newCondemnLine(v)
		s.Warn(fmt.Sprintf("%s may be compromised, and what it knew is being replaced (%s); follow it with: ctl node demote --compromised %s", c.who(), c.Step, c.who()))
	}
	switch {
	case v.GetRotation() != nil && l.Overdue:
		s.Warn("a rotation of the root is under way and its deadline is over; it waits for " + l.names())
	case v.GetRotation() != nil:
		s.Note("a rotation of the root is under way (%s, %d of %d nodes have renewed); follow it with: ctl swarm ca --rotate", l.State, l.Renewed, l.Nodes)
	case l.Behind > 0:
		s.Warn("the last rotation of the root left behind " + l.names())
	}
	if f.order.quiet {
		return nil
	}
	_, err := io.WriteString(s.Out, pemOf(v.GetCertificates()))
	return err
}

// detached says that the rotation goes on.
func (f *follower) detached(v *controlv1.RootView) error {
	if f.order.json {
		return f.line(v)
	}
	if f.order.quiet {
		return nil
	}
	return f.api.Streams().Data("The rotation of the root goes on in the background; see how far it is with: ctl swarm ca --format json")
}

// line prints a view for scripts.
func (f *follower) line(v *controlv1.RootView) error {
	text, err := newCALine(v).text()
	if err != nil {
		return err
	}
	return f.api.Streams().Data("%s", text)
}

// run follows until the rotation is over or its deadline is.
func (f *follower) run(ctx context.Context) error { return watchRoot(ctx, f.api, f.limit, f) }

// left is how long a rotation that waits has until its deadline; false: it ends by
// itself then.
func (f *follower) left(v *controlv1.RootView) (time.Duration, bool) {
	r := v.GetRotation()
	if r == nil || !bytes.Equal(r.GetId(), f.id) || r.GetOnStraggler() != modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT {
		return 0, false
	}
	return time.Duration(r.GetDeadline() - v.GetNow()), true
}

// take shows one view; an error says that there is nothing more to follow.
func (f *follower) take(v *controlv1.RootView) error {
	f.last = v
	r := v.GetRotation()
	switch {
	case r != nil && bytes.Equal(r.GetId(), f.id):
		if f.order.json {
			return f.line(v)
		}
		if f.screen != nil {
			f.screen.Draw(newCALine(v).frame())
		}
		return nil
	case r == nil && bytes.Equal(v.GetLast().GetId(), f.id):
		return errWatched
	case r != nil:
		return say.Hinted(fmt.Errorf("the rotation was replaced by another, asked for by %s", r.GetBy()), "follow that one with: ctl swarm ca --rotate")
	}
	return say.Hinted(errors.New("the rotation is over, and others since: how it ended is not known any more"), "see the root: ctl swarm ca")
}

// leftBehindHint is what to do with who was.
const leftBehindHint = `remove those nodes (ctl node rm) and have them join again ("ctl swarm leave --force", then "ctl swarm join"); give users another certificate: ctl user renew USER -o FILE`

// ended says how it ended.
func (f *follower) ended(end error) error {
	if f.screen != nil {
		f.screen.End()
	}
	if !errors.Is(end, errWatched) {
		return end
	}
	if f.order.json {
		if err := f.line(f.last); err != nil {
			return err
		}
	}
	l, s := newCALine(f.last), f.api.Streams()
	switch {
	case l.State == "aborted" && f.order.abort == nil:
		return say.Hinted(errors.New("the rotation was aborted: the root is the one of before"), "ctl events --since 1h shows when")
	case l.Behind > 0:
		return &say.Error{Code: say.Partly, Hint: leftBehindHint,
			Err: fmt.Errorf("the rotation is over, and %d were left behind: %s", l.Behind, l.names())}
	case f.order.quiet || f.order.json:
		return nil
	}
	_, err := io.WriteString(s.Out, pemOf(f.last.GetCertificates()))
	return err
}

// overdue says whom the rotation goes on waiting for.
func (f *follower) overdue() error {
	if f.screen != nil {
		f.screen.End()
	}
	l := newCALine(f.last)
	return &say.Error{Code: say.Overdue, Hint: `bring them back or remove them (ctl node rm, ctl user rm), leave them behind with "ctl swarm ca --rotate --on-straggler quarantine", or go back with "ctl swarm ca --abort"`,
		Err: fmt.Errorf("the deadline is over, and the rotation goes on waiting for %d: %s", l.Behind, l.names())}
}
