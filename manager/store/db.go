package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

// Proposer puts a transaction into the log. It returns when the entry that holds
// it was applied by this store, with the index and the transaction's own result
// from Apply; or with an error that says that it was refused, or that its end is
// not known.
type Proposer interface {
	Propose(ctx context.Context, tx []byte) (index uint64, err error)
}

// DB changes a Store by optimistic transactions (D2). No lock is held while one
// runs or is being agreed on; those that lost a race go one after another, so
// that they do not lose again to each other.
type DB struct {
	store    *Store
	proposer Proposer
	turn     chan struct{} // capacity 1: full while one that lost has its turn
	losers   atomic.Int32  // that have their turn or wait for it
}

// NewDB returns a DB that reads s and proposes to p.
func NewDB(s *Store, p Proposer) *DB {
	return &DB{store: s, proposer: p, turn: make(chan struct{}, 1)}
}

// Store returns the store that db reads.
func (db *DB) Store() *Store { return db.store }

// Snapshot returns the state as it is now.
func (db *DB) Snapshot() *Snapshot { return db.store.Snapshot() }

// How often a transaction is tried, and what one waits after the first conflict;
// the wait doubles, up to the maximum, and is drawn evenly from its second half.
const (
	maxTries     = 10
	firstBackoff = 500 * time.Microsecond
	maxBackoff   = 50 * time.Millisecond
)

// Update runs fn on a snapshot and proposes what it wrote. If a version fn relied
// on has moved, it waits a little and runs fn again on a newer snapshot; after 10
// times it gives up with errdefs.ErrAborted and the name of the object. fn may
// therefore run several times: it has no effect but on tx, and draws ids outside.
// An error of fn ends the update and is returned as it is.
//
// With req the transaction is applied at most once (R10): if it was answered
// before, Update returns *Duplicate without running fn, or ErrInvalidArgument if
// the same id was used for another request.
//
// When Update returns nil the store holds index.
func (db *DB) Update(ctx context.Context, req *logv1.Request, fn func(*Tx) error) (index uint64, err error) {
	first := 0
	if db.losers.Load() == 0 {
		index, err = db.try(ctx, req, fn)
		if again := (*retry)(nil); !errors.As(err, &again) {
			return index, err
		}
		first = 1
	}
	// It lost a race, or would win one against those who did.
	db.losers.Add(1)
	defer db.losers.Add(-1)
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for one's turn after a conflict: %w", context.Cause(ctx))
	}
	return db.insist(ctx, first, req, fn)
}

// insist runs fn, and again while it conflicts, counting tries from first.
func (db *DB) insist(ctx context.Context, first int, req *logv1.Request, fn func(*Tx) error) (uint64, error) {
	var conflict *Conflict
	for try := first; try < maxTries; try++ {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return 0, fmt.Errorf("retry after a conflict: %w", err)
			}
		}
		index, err := db.try(ctx, req, fn)
		again := (*retry)(nil)
		if !errors.As(err, &again) {
			return index, err
		}
		conflict = again.conflict
	}
	return 0, fmt.Errorf("%s, after %d tries: %w", conflict.Error(), maxTries, errdefs.ErrAborted)
}

// retry is a Conflict found by apply, as against one that fn returned.
type retry struct{ conflict *Conflict }

func (r *retry) Error() string { return r.conflict.Error() }

// try is one run of fn.
func (db *DB) try(ctx context.Context, req *logv1.Request, fn func(*Tx) error) (uint64, error) {
	snap := db.store.Snapshot()
	if a := snap.Answered(req.GetCaller(), req.GetId()); req != nil && a != nil {
		return 0, settle(req, duplicate(a))
	}
	tx := newTx(snap)
	if err := fn(tx); err != nil {
		return 0, err
	}
	unit := tx.finish()
	if len(unit.GetOperations()) == 0 {
		return snap.Index(), nil
	}
	data, err := proto.Marshal(&logv1.Transaction{Request: req, Units: []*logv1.Unit{unit}})
	if err != nil {
		return 0, fmt.Errorf("encode transaction: %w", err)
	}
	index, err := db.proposer.Propose(ctx, data)
	var c *Conflict
	var d *Duplicate
	switch {
	case err == nil:
		return index, db.store.WaitIndex(ctx, index)
	case errors.As(err, &d):
		return 0, settle(req, d)
	case errors.As(err, &c):
		return 0, &retry{conflict: c}
	}
	return 0, err
}

// settle says what a duplicate is to the one who sent req.
func settle(req *logv1.Request, d *Duplicate) error {
	if !bytes.Equal(req.GetHash(), d.Hash) {
		return fmt.Errorf("request id %x was used for another request, in entry %d: %w", req.GetId(), d.Index, errdefs.ErrInvalidArgument)
	}
	return d
}

// pause waits before the given retry, counted from 1.
func pause(ctx context.Context, try int) error {
	d := min(firstBackoff<<(try-1), maxBackoff)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
