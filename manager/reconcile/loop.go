// Package reconcile is the one loop that keeps the cluster as it should be.
//
// It runs on the leader, for its tenure. Each round takes one snapshot, plans
// the dirty services (orchestrate: which tasks; schedule: where; reap: what may
// go), and commits what the plans say as independent units, one per slot's move
// (R11). It decides nothing itself and keeps nothing that a new leader would need:
// it begins with every service dirty.
//
// Events only narrow where to look. A service is dirty when it, a task of it, or
// a node that holds a task of it changed; when its timer is due; when a unit of
// its was dropped; and, while it has tasks that found no node, when a node
// changed or, if room was lacking, a task ended.
//
// A unit expects the versions of what it relies on: the service, the decided
// index of the tasks it changes, the record of the node it places on. Reports and
// liveness move none of these, so they never make a unit conflict.
//
// Invariant: a round that finds everything as it should be proposes nothing.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
)

// Config configures a Loop. Every field but OnRound is required.
type Config struct {
	// DB proposes; its store is Store.
	DB    *store.DB
	Store *store.Store
	// OnRound, if set, is told of each round: how many services it planned, how
	// many units were dropped, and how long planning and committing took.
	OnRound func(services, dropped int, took time.Duration)
	// Log receives the loop's records.
	Log *slog.Logger
}

func (c Config) check() error {
	if c.DB == nil || c.Store == nil || c.Log == nil {
		return errors.New("reconcile: DB, Store and Log are required")
	}
	return nil
}

// A Loop reconciles services for one tenure.
type Loop struct{ Config }

// New returns a loop. Run starts it.
func New(cfg Config) *Loop { return &Loop{Config: cfg} }

// How long the loop waits after a round that brought nothing, the first time and
// at most; the wait doubles in between.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// Run reconciles until ctx ends, and then returns nil. Another end means that the
// log holds what this version cannot read.
func (l *Loop) Run(ctx context.Context) error {
	if err := l.check(); err != nil {
		return err
	}
	w := newWatcher(l.Store)
	defer w.close()
	pause := time.Duration(0)
	for ctx.Err() == nil {
		snap, begin := w.look(), time.Now()
		r := newRound(l.Config, snap, w)
		planned := r.services(w)
		planning := time.Since(begin)
		end, err := l.commit(ctx, w, r)
		if l.OnRound != nil {
			l.OnRound(planned, r.dropped, time.Since(begin))
		}
		var unreadable *store.Unreadable
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &unreadable):
			return err
		case err != nil:
			l.Log.LogAttrs(ctx, slog.LevelWarn, "reconcile round got no answer, planning again", slog.Any("err", err))
		}
		pause = nextPause(pause, planning, end)
		w.wait(ctx, pause)
	}
	return nil
}

// How a round ended.
type ending int

const (
	refused  ending = iota // what it proposed was not applied
	advanced               // something of it was
	idle                   // it had nothing to propose
)

// nextPause returns how long to wait before looking again, whatever happened
// meanwhile: after a round that advanced as long as it planned, and three times that
// after one that found nothing to do. So however many tasks a service has, looking at
// it takes no more than half of a core, a quarter while its tasks only report, and what
// changes meanwhile is planned for once.
func nextPause(last, planning time.Duration, end ending) time.Duration {
	switch end {
	case advanced:
		return min(planning, maxPause)
	case idle:
		return min(3*planning, maxPause)
	case refused:
	}
	return min(max(2*last, firstPause), maxPause)
}

// commit proposes the round's units; the plans first, then the records of the
// services, whose versions the plans rely on. What was dropped keeps its service
// dirty.
func (l *Loop) commit(ctx context.Context, w *watcher, r *round) (ending, error) {
	proposed, applied := 0, 0
	for _, batch := range []*batch{&r.plans, &r.records} {
		if len(batch.parcels) == 0 {
			continue
		}
		dropped, err := l.DB.Units(ctx, batch.parcels)
		if err != nil {
			w.mark(slices.Concat(r.plans.owners, r.records.owners)...)
			return refused, err
		}
		for _, i := range dropped {
			w.mark(batch.owners[i])
		}
		proposed, applied = proposed+batch.units, applied+batch.units-len(dropped)
		r.dropped += len(dropped)
		if len(dropped) > 0 {
			l.Log.LogAttrs(ctx, slog.LevelDebug, "units dropped, planning their services again", slog.Int("dropped", len(dropped)))
		}
	}
	switch {
	case proposed == 0:
		return idle, nil
	case applied > 0:
		return advanced, nil
	}
	return refused, nil
}

// sortedIDs returns the keys of m in order.
func sortedIDs[V any](m map[id.ID]V) []id.ID {
	return slices.SortedFunc(maps.Keys(m), id.Compare)
}
