package store

import (
	"context"
	"sync"
	"sync/atomic"
)

// Store holds the current Snapshot and everything that follows it. Readers never
// wait; Apply and Restore are called by one goroutine at a time.
type Store struct {
	snap atomic.Pointer[Snapshot]
	// writing is held by Apply and Restore, for memory work only.
	writing sync.Mutex
	// observer is nil if nobody observes.
	observer Observer
	hub      hub
}

// New returns an empty store, at index 0.
func New() *Store {
	s := &Store{}
	s.hub.byKey = make(map[Key]map[*Watch]struct{})
	s.snap.Store(&Snapshot{state: newState()})
	return s
}

// Snapshot returns the state as it is now.
func (s *Store) Snapshot() *Snapshot { return s.snap.Load() }

// publish makes next the current state and tells who waits for it.
func (s *Store) publish(next *state) {
	changes := next.changes
	next.undo, next.changes = nil, nil
	next.recount()
	before := s.snap.Load()
	after := &Snapshot{state: next, pace: before.pace.after(next.now)}
	s.snap.Store(after)
	if s.observer != nil && len(changes) > 0 {
		s.observer.Published(before, after, changes)
	}
	s.hub.tell(changes)
}

// WaitIndex returns when the store holds index, or with the context's cause.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error {
	for {
		next := s.hub.nextPublish() // taken before the look, so that none is missed
		if s.Snapshot().Index() >= index {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-next:
		}
	}
}
