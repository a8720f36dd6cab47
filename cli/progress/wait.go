package progress

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// defaultMonitor is how long tasks are watched where a service does not say.
const defaultMonitor = 5 * time.Second

// lead is by how much a daemon, which has the same deadline, may end a watch
// before the wait is over: nothing has broken then.
const lead = 100 * time.Millisecond

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
	// Open begins a watch; it is called again when one breaks or cannot be had,
	// with the error, and returns that error if there is to be no other.
	Open func(ctx context.Context, broke error) (Source, error)
	// Goal is what to wait for.
	Goal Goal
	// Said is called with what is being waited for, whenever that changes.
	Said func(string)
}

// A word is what the watch came to: a message, or that it broke.
type word struct {
	message *controlv1.WatchServiceResponse
	broke   error
}

// Wait returns nil when the service has converged and stayed so for as long as
// it watches new tasks.
func (w *Waiter) Wait(ctx context.Context) error {
	inner, stop := context.WithCancel(ctx)
	words, ended := make(chan word), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- w.receive(inner, words) })
	err := w.follow(ctx, words, ended)
	stop()
	wg.Wait()
	return err
}

// receive passes on what watches say, and that one broke, until ctx ends or no
// other can be had.
func (w *Waiter) receive(ctx context.Context, to chan<- word) error {
	var broke error
	for {
		src, err := w.Open(ctx, broke)
		for err == nil {
			var m *controlv1.WatchServiceResponse
			if m, err = src.Recv(); err != nil {
				break
			}
			if !pass(ctx, to, word{message: m}) {
				return context.Cause(ctx)
			}
		}
		if src == nil && broke != nil && errors.Is(err, broke) {
			return err // Open has given it up
		}
		broke = err
		if end, limited := ctx.Deadline(); limited && time.Until(end) <= lead {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if !pass(ctx, to, word{broke: broke}) {
			return context.Cause(ctx)
		}
	}
}

func pass(ctx context.Context, to chan<- word, w word) bool {
	select {
	case to <- w:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow judges after each message and each second. While no watch is open it
// judges nothing: what it knows is old, and time that nobody watched proves
// nothing until the next watch shows the same tasks.
func (w *Waiter) follow(ctx context.Context, words <-chan word, ended <-chan error) error {
	v := NewView(w.Goal)
	s := stability{}
	var broke error
	for {
		r := v.Report()
		w.say(r, broke)
		if r.Fault != nil {
			w.end(r.frame(v))
			return r.Fault
		}
		left, stable := s.judge(r, v.monitor(), time.Now())
		if stable && broke == nil {
			w.end(append(r.frame(v), Line{Text: "verify: Service converged"}))
			return nil
		}
		w.draw(append(r.frame(v), s.line(left, v.monitor(), broke)...))
		select {
		case word := <-words:
			broke = word.broke
			if word.message.GetRemoved() {
				w.end(r.frame(v))
				return ErrRemoved
			}
			v.Apply(word.message)
		case <-s.wake(left, broke):
		case err := <-ended:
			w.end(r.frame(v))
			if v.service != nil && errdefs.IsNotFound(err) {
				return ErrRemoved // while nobody watched
			}
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

func (w *Waiter) say(r Report, broke error) {
	if w.Said == nil {
		return
	}
	text := r.Missing()
	if broke != nil {
		text += ", and no manager has been heard since: " + broke.Error()
	}
	w.Said(text)
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
	tasks  string    // that have been watched since then
	failed bool      // they were stable, and are not any more
}

// judge returns how long is left, and whether the service is stable.
func (s *stability) judge(r Report, monitor time.Duration, now time.Time) (left time.Duration, stable bool) {
	if !r.Converged {
		s.failed = s.failed || !s.since.IsZero()
		s.since = time.Time{}
		return 0, false
	}
	if s.tasks != r.tasks { // others stand in the same places: some have failed unseen
		s.failed = s.failed || !s.since.IsZero()
		s.since = time.Time{}
	}
	if s.since.IsZero() {
		s.since, s.tasks = now, r.tasks
	}
	left = monitor - now.Sub(s.since)
	return left, left <= 0 || r.Watched
}

// line says what verification is at.
func (s *stability) line(left, monitor time.Duration, broke error) []Line {
	waiting := func(d time.Duration) string {
		seconds := int((d + time.Second - 1) / time.Second)
		return fmt.Sprintf("verify: Waiting %d seconds to verify that tasks are stable...", seconds)
	}
	switch {
	case broke != nil:
		return []Line{{Text: "verify: Waiting for a manager to answer..."}}
	case !s.since.IsZero():
		return []Line{{Text: waiting(left), Plain: waiting(monitor)}}
	case s.failed:
		return []Line{{Text: "verify: Detected task failure"}}
	}
	return nil
}

// wake is due when the line changes or the waiting is over.
func (s *stability) wake(left time.Duration, broke error) <-chan time.Time {
	if s.since.IsZero() || broke != nil {
		return nil
	}
	return time.After(max(time.Millisecond, min(left, left%time.Second+time.Millisecond)))
}

func itoa(n int) string { return strconv.Itoa(n) }

func mapKeys(m map[string]*controlv1.TaskView) iter.Seq[string] { return maps.Keys(m) }
