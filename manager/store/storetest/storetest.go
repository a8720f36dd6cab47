// Package storetest is a store whose proposals are applied at once, for the tests
// of everything that stands on a store.
//
// It keeps the promises of the real thing: transactions travel as bytes, results
// are apply's own, indexes grow by one, and log time never falls.
package storetest

import (
	"context"
	"sync"
	"time"

	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// A Log is a Proposer with nobody to agree with.
type Log struct {
	// Before, if set, is called with each proposal before it is applied; an error
	// is the proposal's end. It may write to the store itself, as a rival would.
	Before func(tx []byte) error

	store *store.Store
	mu    sync.Mutex // guards the field below, and makes appliers take turns
	clock time.Time
}

// New returns an empty store, a DB on it, and the log between them, whose clock
// stands at a fixed time.
func New() (*store.Store, *store.DB, *Log) {
	s := store.New()
	l := &Log{store: s, clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	return s, store.NewDB(s, l), l
}

// Advance moves the clock that entries are stamped with.
func (l *Log) Advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock = l.clock.Add(d)
}

// Propose applies tx as the next entry.
func (l *Log) Propose(ctx context.Context, tx []byte) (uint64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	if l.Before != nil {
		if err := l.Before(tx); err != nil {
			return 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	index := l.store.Snapshot().Index() + 1
	return index, l.store.Apply(index, l.clock.UnixNano(), [][]byte{tx})[0]
}

// Do applies operations as one unit that relies on nothing, and returns what
// became of it.
func (l *Log) Do(ops ...*logv1.Operation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx := &logv1.Transaction{Units: []*logv1.Unit{{Operations: ops}}}
	return l.store.ApplyProto(l.store.Snapshot().Index()+1, l.clock.UnixNano(), []*logv1.Transaction{tx})[0]
}
