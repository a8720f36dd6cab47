package progress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"strconv"
	"sync"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// defaultMonitor is how long tasks are watched where a service does not say.
const defaultMonitor = 5 * time.Second

// ErrRemoved is the end of a wait for a service that somebody removed.
var ErrRemoved = errors.New("the service was removed while it was waited for")

// A Source gives the messages of one watch.
type Source interface {
	Recv() (*controlv1.WatchServiceResponse, error)
}

// A Waiter waits for a service.
type Waiter struct {
	// Screen shows the progress. Nil: quietly.
	Screen *Screen
	// Open begins a watch; it is called again when one breaks, with the error.
	Open func(ctx context.Context, broke error) (Source, error)
	// Goal is what to wait for.
	Goal Goal
	// Said is called with what is being waited for, whenever that changes.
	Said func(string)
}

// Wait returns nil when the service has converged and stayed so for as long as
// it watches new tasks.
func (w *Waiter) Wait(ctx context.Context) error {
	inner, stop := context.WithCancel(ctx)
	messages, ended := make(chan *controlv1.WatchServiceResponse), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- w.receive(inner, messages) })
	err := w.follow(ctx, messages, ended)
	stop()
	wg.Wait()
	return err
}

// receive passes messages on until ctx ends or no watch can be had.
func (w *Waiter) receive(ctx context.Context, to chan<- *controlv1.WatchServiceResponse) error {
	var broke error
	for {
		src, err := w.Open(ctx, broke)
		if err != nil {
			return err
		}
		for {
			m, err := src.Recv()
			if err != nil {
				broke = err
				break
			}
			select {
			case to <- m:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if errors.Is(broke, io.EOF) {
			broke = nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// follow judges after each message and each second.
func (w *Waiter) follow(ctx context.Context, messages <-chan *controlv1.WatchServiceResponse, ended <-chan error) error {
	v := NewView(w.Goal)
	s := stability{}
	for {
		r := v.Report()
		w.say(r)
		if r.Fault != nil {
			w.end(r.frame(v))
			return r.Fault
		}
		left, stable := s.judge(r, v.monitor(), time.Now())
		if stable {
			w.end(append(r.frame(v), Line{Text: "verify: Service converged"}))
			return nil
		}
		w.draw(append(r.frame(v), s.line(left, v.monitor())...))
		select {
		case m := <-messages:
			if m.GetRemoved() {
				w.end(r.frame(v))
				return ErrRemoved
			}
			v.Apply(m)
		case <-s.wake(left):
		case err := <-ended:
			w.end(r.frame(v))
			return err
		case <-ctx.Done():
			w.end(r.frame(v))
			return context.Cause(ctx)
		}
	}
}

func (r Report) frame(v *View) []Line {
	if v.service == nil {
		return nil
	}
	return r.Frame()
}

func (w *Waiter) say(r Report) {
	if w.Said != nil {
		w.Said(r.Missing())
	}
}

func (w *Waiter) draw(frame []Line) {
	if w.Screen != nil && len(frame) > 0 {
		w.Screen.Draw(frame)
	}
}

// end draws the last frame and leaves it standing.
func (w *Waiter) end(frame []Line) {
	if w.Screen == nil {
		return
	}
	w.Screen.Draw(frame)
	w.Screen.End()
}

// monitor is how long the service watches a new task.
func (v *View) monitor() time.Duration {
	spec := v.service.GetService().GetSpec()
	c := spec.GetUpdate()
	if v.goal.Rollback {
		c = spec.GetRollback()
	}
	if c == nil {
		return defaultMonitor
	}
	return time.Duration(c.GetMonitor())
}

// stability holds a service to staying converged for a while.
type stability struct {
	since  time.Time // zero: it is not converged
	failed bool      // it was, and is not any more
}

// judge returns how long is left, and whether the service is stable.
func (s *stability) judge(r Report, monitor time.Duration, now time.Time) (left time.Duration, stable bool) {
	if !r.Converged {
		s.failed = s.failed || !s.since.IsZero()
		s.since = time.Time{}
		return 0, false
	}
	if s.since.IsZero() {
		s.since = now
	}
	left = monitor - now.Sub(s.since)
	return left, left <= 0 || r.Watched
}

// line says what verification is at.
func (s *stability) line(left, monitor time.Duration) []Line {
	waiting := func(d time.Duration) string {
		seconds := int((d + time.Second - 1) / time.Second)
		return fmt.Sprintf("verify: Waiting %d seconds to verify that tasks are stable...", seconds)
	}
	switch {
	case !s.since.IsZero():
		return []Line{{Text: waiting(left), Plain: waiting(monitor)}}
	case s.failed:
		return []Line{{Text: "verify: Detected task failure"}}
	}
	return nil
}

// wake is due when the line changes or the waiting is over.
func (s *stability) wake(left time.Duration) <-chan time.Time {
	if s.since.IsZero() {
		return nil
	}
	return time.After(max(time.Millisecond, min(left, left%time.Second+time.Millisecond)))
}

func itoa(n int) string { return strconv.Itoa(n) }

func mapKeys(m map[string]*controlv1.TaskView) iter.Seq[string] { return maps.Keys(m) }
