package containerd

import (
	"context"
	"errors"
	"sync"
)

// errClosed ends the downloads of a runtime that is being closed.
var errClosed = errors.New("the runtime is being closed")

// flights merges equal work that is wanted by many at once. Work goes on for
// as long as somebody waits for it, and is cancelled when the last one left.
type flights struct {
	mu     sync.Mutex // guards the fields below; held for memory only
	going  map[string]*flight
	closed bool
	wg     sync.WaitGroup
}

type flight struct {
	done    chan struct{} // closed when err is final
	err     error
	waiters int
	cancel  context.CancelCauseFunc
}

// do runs work, or waits for an equal one that is under way, and returns its
// result. key says which works are equal.
func (f *flights) do(ctx context.Context, key string, work func(context.Context) error) error {
	fl, err := f.board(ctx, key, work)
	if err != nil {
		return err
	}
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		f.leave(key, fl, ctx.Err())
		return ctx.Err()
	}
}

func (f *flights) board(ctx context.Context, key string, work func(context.Context) error) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	if fl := f.going[key]; fl != nil {
		fl.waiters++
		return fl, nil
	}
	if f.going == nil {
		f.going = map[string]*flight{}
	}
	// The work belongs to all who wait for it, not to the first of them.
	work2, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{done: make(chan struct{}), waiters: 1, cancel: cancel}
	f.going[key] = fl
	f.wg.Go(func() {
		err := work(work2)
		cancel(nil)
		f.land(key, fl, err)
	})
	return fl, nil
}

func (f *flights) land(key string, fl *flight, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.going[key] == fl {
		delete(f.going, key)
	}
	fl.err = err
	close(fl.done)
}

// leave gives up waiting. Work nobody waits for is cancelled, and whoever wants
// it again begins anew.
func (f *flights) leave(key string, fl *flight, cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters > 0 {
		return
	}
	if f.going[key] == fl {
		delete(f.going, key)
	}
	fl.cancel(cause)
}

// close cancels all work and waits for its end.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.going {
		fl.cancel(errClosed)
	}
	f.mu.Unlock()
	f.wg.Wait()
}
