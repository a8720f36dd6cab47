package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// An act is one way to revoke somebody. Who is to be revoked has things open at each
// manager and asks there for more.
type act struct {
	name string // as it is typed
	dial func(address string) (*grpc.ClientConn, error)
	has  []attempt
	asks []request
	do   func(context.Context) error
}

// An attempt opens something at a manager. next reads on until that ends; it is nil
// where there was one answer and that is all.
type attempt func(ctx context.Context, at *grpc.ClientConn, to *process) (next func() error, err error)

// A request is an attempt that is made again and again, until it is refused.
type request struct {
	refused string // what is then the case
	attempt
}

// revoke takes identities away in each of the ways there are and measures how long it
// is until each manager has cut what was open and refuses what is asked for. Managers
// are demoted less often than others are revoked: a vote takes seconds to give back.
func revoke(ctx context.Context, s *stage) error {
	trials := max(1, min(s.pace.trials, s.agents/2))
	w, err := s.wanted(ctx, trials)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		next  func(context.Context, int) (*act, error)
		times int
	}{{w.nodeToRemove, trials}, {w.nodeToRevoke, trials}, {w.userToRemove, trials}, {w.managerToDemote, s.pace.hosts}} {
		for i := range way.times {
			a, err := way.next(ctx, i)
			if err == nil {
				err = s.carryOut(ctx, a, w.managers)
			}
			if err != nil {
				return fmt.Errorf("trial %d: %w", i+1, err)
			}
		}
	}
	return nil
}

// carryOut revokes, and notes when each manager acted on it.
func (s *stage) carryOut(ctx context.Context, a *act, managers []*process) error {
	late := fmt.Errorf("%s: not cut off everywhere after %v", a.name, patience)
	ctx, stop := context.WithTimeoutCause(ctx, patience, late)
	defer stop()
	g, watching := errgroup.WithContext(ctx)
	var all []*end
	for _, m := range managers {
		ends, hangUp, err := a.settle(watching, m)
		defer hangUp()
		if err != nil {
			return fmt.Errorf("%s: before, at %s: %w", a.name, m.address, err)
		}
		all = append(all, ends...)
	}
	for _, e := range all {
		g.Go(func() error {
			err := e.await(watching)
			e.at = time.Now()
			return err
		})
	}
	asked := time.Now()
	err := a.do(ctx)
	answered := time.Now()
	if err != nil {
		stop() // ends those who wait
		return errors.Join(fmt.Errorf("%s: %w", a.name, err), g.Wait())
	}
	if err := g.Wait(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", a.name, err), context.Cause(ctx))
	}
	s.note(a.name+answeredIn, "ms", plain, millis(answered.Sub(asked)))
	for _, e := range all {
		s.note(a.name+": "+e.what+afterRequest, "ms", plain, millis(e.at.Sub(asked)))
		s.note(a.name+": "+e.what+afterAnswer, "ms", plain, millis(max(0, e.at.Sub(answered))))
	}
	return nil
}

// An end is that of one thing at one manager.
type end struct {
	what  string // is the case then
	await func(context.Context) error
	at    time.Time
}

// settle opens what is to be cut at a manager, and returns what is to end there. Each
// thing has a connection of its own: to have one cut is not to have the other refused.
func (a *act) settle(ctx context.Context, m *process) (ends []*end, hangUp func(), err error) {
	var all []*grpc.ClientConn
	hangUp = func() {
		for _, cc := range all {
			_ = cc.Close() // nothing is expected of it any more
		}
	}
	dial := func() (*grpc.ClientConn, error) {
		cc, err := a.dial(m.address)
		if err == nil {
			all = append(all, cc)
		}
		return cc, err
	}
	for _, open := range a.has {
		cc, err := dial()
		if err != nil {
			return nil, hangUp, err
		}
		next, err := open(ctx, cc, m)
		if err != nil {
			return nil, hangUp, err
		}
		ends = append(ends, &end{what: streamsCut, await: func(context.Context) error { return untilCut(next) }})
	}
	for _, r := range a.asks {
		cc, err := dial()
		if err != nil {
			return nil, hangUp, err
		}
		ends = append(ends, &end{what: r.refused, await: func(ctx context.Context) error { return r.untilRefused(ctx, cc, m) }})
	}
	return ends, hangUp, nil
}

// untilCut reads on until that ends.
func untilCut(next func() error) error {
	for {
		err := next()
		switch {
		case err == nil:
		case denied(err) || errdefs.IsUnavailable(err): // a connection that is closed is as good
			return nil
		default:
			return fmt.Errorf("what was open ended otherwise: %w", err)
		}
	}
}

// askEvery is how often each manager is asked for more.
const askEvery = 2 * time.Millisecond

// untilRefused asks until the answer is that it is not for this one.
func (r request) untilRefused(ctx context.Context, at *grpc.ClientConn, to *process) error {
	for {
		once, stop := context.WithCancel(ctx)
		_, err := r.attempt(once, at, to)
		stop()
		if denied(err) {
			return nil
		}
		if !wait(ctx, askEvery) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

func denied(err error) bool { return errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// What is the case when somebody is revoked, and of which moment that is told.
const (
	callsRefused = "new calls refused"
	readsRefused = "data keys refused"
	raftRefused  = "votes and appends refused"
	streamsCut   = "open streams cut"

	answeredIn   = " answered"
	afterRequest = ", after the request"
	afterAnswer  = ", after the answer"
)

// revocationRows are the figures of an act, after which those things are the case.
// Every manager is to have acted within a second of the request (R18).
func revocationRows(name string, things ...string) map[string]target {
	rows := map[string]target{name + answeredIn: none}
	for _, what := range things {
		figure := name + ": " + what
		rows[figure+afterAnswer], rows[figure+afterRequest], rows[worstOf+figure+afterRequest] = none, none, atMost(1000)
	}
	return rows
}
