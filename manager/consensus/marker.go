package consensus

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// marker is an index that only rises, and those who wait for it.
type marker struct {
	mu      sync.Mutex // guards the fields below
	at      uint64
	waiting map[chan struct{}]uint64
}

// raise moves the index and wakes who waited for it.
func (m *marker) raise(to uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = max(m.at, to)
	for c, want := range m.waiting {
		if want <= m.at {
			close(c)
			delete(m.waiting, c)
		}
	}
}

// get returns the index.
func (m *marker) get() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

// wait returns when the index is want or above, or ctx has ended.
func (m *marker) wait(ctx context.Context, want uint64) error {
	m.mu.Lock()
	if m.at >= want {
		m.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	if m.waiting == nil {
		m.waiting = map[chan struct{}]uint64{}
	}
	m.waiting[c] = want
	m.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.waiting, c)
		return ctx.Err()
	}
}

// board shows the newest status and wakes who watches it.
type board struct {
	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{}
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

// set shows s, and wakes the watchers if it says something new to them.
func (b *board) set(s Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.status
	b.status = s
	if old.same(s) {
		return
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// same reports whether a watcher of Changed need not look at t after s.
func (s Status) same(t Status) bool {
	return s.Term == t.Term && s.Leader == t.Leader && s.Leading == t.Leading && s.Tenured == t.Tenured &&
		s.Member == t.Member && s.InContact == t.InContact && (s.Failed == nil) == (t.Failed == nil) &&
		slices.Equal(s.Voters, t.Voters) && slices.Equal(s.Learners, t.Learners) && maps.Equal(s.Reachable, t.Reachable)
}

func (b *board) get() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.changed
}
