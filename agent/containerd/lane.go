package containerd

import (
	"context"
	"sync"
)

// lanes lets one goroutine at a time act on a container. Unlike a mutex a lane
// is waited for no longer than a context lives, because it is held across calls
// to containerd.
type lanes struct {
	mu    sync.Mutex // guards lanes and the users of each; held for memory only
	lanes map[string]*lane
}

type lane struct {
	free  chan struct{} // capacity 1: holds a token while nobody is in the lane
	users int
}

// enter waits for the lane of id. The caller calls leave when it is done.
func (l *lanes) enter(ctx context.Context, id string) (leave func(), err error) {
	ln := l.join(id)
	select {
	case <-ln.free:
		return func() { ln.free <- struct{}{}; l.part(id) }, nil
	case <-ctx.Done():
		l.part(id)
		return nil, ctx.Err()
	}
}

func (l *lanes) join(id string) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lanes[id]
	if ln == nil {
		if l.lanes == nil {
			l.lanes = map[string]*lane{}
		}
		ln = &lane{free: make(chan struct{}, 1)}
		ln.free <- struct{}{}
		l.lanes[id] = ln
	}
	ln.users++
	return ln
}

func (l *lanes) part(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lanes[id].users--; l.lanes[id].users == 0 {
		delete(l.lanes, id)
	}
}

// A bell wakes everyone who listens, to look again.
type bell struct {
	mu   sync.Mutex // guards ring
	ring chan struct{}
}

// heard returns a channel that is closed at the next strike.
func (b *bell) heard() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring == nil {
		b.ring = make(chan struct{})
	}
	return b.ring
}

func (b *bell) strike() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring != nil {
		close(b.ring)
		b.ring = nil
	}
}
