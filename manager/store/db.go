package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
// runs or is being agreed on; those that lost a race for an object go one after
// another, so that they do not lose again to each other, and in nobody's way who
// does not rely on that object.
type DB struct {
	store    *Store
	proposer Proposer
	lines    lines
	// by says who asks for an update; nil says nobody.
	by func(context.Context) *logv1.Deed
}

// NewDB returns a DB that reads s and proposes to p.
func NewDB(s *Store, p Proposer) *DB {
	return &DB{store: s, proposer: p}
}

// Attribute makes by say, from the context of an update, who asks for it: that is
// then in the audit trail. It returns nil for what is the swarm's own work. It is
// called before the first update.
func (db *DB) Attribute(by func(context.Context) *logv1.Deed) { db.by = by }

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
// on has moved, it waits for its turn at that object and a little more, and runs fn
// again on a newer snapshot; after 10 times it gives up with errdefs.ErrAborted and
// the name of the object. It waits for its turn, too, before it would win a race
// against those who lost one. fn may therefore run several times: it has no effect
// but on tx, and draws ids outside. An error of fn ends the update and is returned
// as it is.
//
// With req the transaction is applied at most once (R10): if it was answered
// before, Update returns *Duplicate without running fn, or ErrInvalidArgument if
// the same id was used for another request.
//
// When Update returns nil the store holds index.
func (db *DB) Update(ctx context.Context, req *logv1.Request, fn func(*Tx) error) (index uint64, err error) {
	q := &queuer{lines: &db.lines}
	defer q.giveBack(0)
	for try, queued := 0, 0; ; {
		unit, index, err := db.run(req, fn)
		if unit == nil || err != nil {
			return index, err
		}
		if crowd := q.crowded(unit); len(crowd) > 0 && queued < maxTries {
			queued++ // what fn relies on may change from run to run; it goes on some time
			if err := q.join(ctx, crowd...); err != nil {
				return 0, fmt.Errorf("wait for one's turn after a conflict: %w", err)
			}
			continue
		}
		index, err = db.agree(ctx, req, unit)
		again := (*retry)(nil)
		if !errors.As(err, &again) {
			return index, err
		}
		if try++; try == maxTries {
			return 0, fmt.Errorf("%s, after %d tries: %w", again.conflict.Error(), maxTries, errdefs.ErrAborted)
		}
		if err := q.lost(ctx, again.conflict, try); err != nil {
			return 0, fmt.Errorf("retry after a conflict: %w", err)
		}
	}
}

// retry is a Conflict found by apply, as against one that fn returned.
type retry struct{ conflict *Conflict }

func (r *retry) Error() string { return r.conflict.Error() }

// run is one run of fn: what it wrote, or nil if there is nothing to agree on.
func (db *DB) run(req *logv1.Request, fn func(*Tx) error) (*logv1.Unit, uint64, error) {
	snap := db.store.Snapshot()
	if a := snap.Answered(req.GetCaller(), req.GetId()); req != nil && a != nil {
		return nil, 0, settle(req, duplicate(a))
	}
	tx := newTx(snap)
	if err := fn(tx); err != nil {
		return nil, 0, err
	}
	unit := tx.finish()
	if len(unit.GetOperations()) == 0 {
		return nil, snap.Index(), nil
	}
	return unit, 0, nil
}

// agree proposes what one run wrote.
func (db *DB) agree(ctx context.Context, req *logv1.Request, unit *logv1.Unit) (uint64, error) {
	tx := &logv1.Transaction{Request: req, Units: []*logv1.Unit{unit}}
	if db.by != nil {
		tx.Deed = db.by(ctx)
	}
	data, err := proto.Marshal(tx)
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

// lost waits until a race that was lost may be run again, for the given time.
func (q *queuer) lost(ctx context.Context, c *Conflict, try int) error {
	if err := q.join(ctx, spot(c.Kind, c.Key)); err != nil {
		return err
	}
	return pause(ctx, try)
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
