package reconcile

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/skep-project/skep/internal/id"
)

// TestARoundEndsWithItsSizeAndTheRestComesFirst: a service that is dirty again and
// again does not keep those behind it from their turn.
func TestARoundEndsWithItsSizeAndTheRestComesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node(0, nil)
	for n := range 4 {
		w.create(n+1, 3, nil)
	}
	watch := newWatcher(w.store)
	defer watch.close()
	var turns [][]id.ID
	for len(turns) < 3 {
		r := newRound(Config{Store: w.store, DB: w.db, Log: slog.New(slog.DiscardHandler)}, watch.look(), watch)
		r.size = 4 // after the second service
		r.services(watch)
		turns = append(turns, slices.Compact(slices.Clone(r.plans.owners)))
		watch.mark(serviceID(1))
	}
	want := [][]id.ID{{serviceID(1), serviceID(2)}, {serviceID(3), serviceID(4)}, {serviceID(1)}}
	if !slices.EqualFunc(turns, want, slices.Equal) {
		t.Errorf("turns %v, want %v", turns, want)
	}
}

// TestANodeHearsOfAllItsTasksAtOnce: what is planned for one node is noted together,
// however many pages the plan has.
func TestANodeHearsOfAllItsTasksAtOnce(t *testing.T) {
	t.Parallel()
	const nodes, each = 50, 100 // five pages if every page went round the nodes
	w := newWorld(t)
	for n := range nodes {
		w.node(n, nil)
	}
	w.create(1, nodes*each, nil)
	watch := newWatcher(w.store)
	defer watch.close()
	r := newRound(Config{Store: w.store, DB: w.db, Log: slog.New(slog.DiscardHandler)}, watch.look(), watch)
	r.services(watch)
	pages := make(map[string]int)
	for _, p := range r.plans.parcels {
		for _, g := range p.Moves.GetNodes() {
			pages[string(g.GetNode())]++
		}
	}
	twice := 0
	for _, n := range pages {
		if n > 1 {
			twice++
		}
	}
	if len(pages) != nodes || twice >= len(r.plans.parcels) {
		t.Errorf("%d nodes have tasks, %d of them in more than one of %d pages", len(pages), twice, len(r.plans.parcels))
	}
}
