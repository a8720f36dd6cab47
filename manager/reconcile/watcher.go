package reconcile

import (
	"context"
	"reflect"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/orchestrate"
	"github.com/skep-project/skep/manager/reap"
	"github.com/skep-project/skep/manager/schedule"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A watcher knows which services are worth planning again. It belongs to Run's
// goroutine.
type watcher struct {
	store *store.Store
	watch *store.Watch
	now   time.Time
	dirty map[id.ID]struct{}
	// left are those of the dirty ones that the last round did not come to; they are
	// planned first.
	left []id.ID
	// wakes are when services become dirty by time alone.
	wakes map[id.ID]time.Time
	// unplaced are the services with a task that found no node; true if the end
	// of some task could make room.
	unplaced map[id.ID]bool
	// globals are the services with a task per node.
	globals map[id.ID]struct{}
	nodes   map[id.ID]*facts
}

// facts are what plans know of a node.
type facts struct {
	version uint64 // of the record
	place   schedule.Node
	stand   orchestrate.Node
	reap    reap.Node
	// rebooted is since when it has run without what ran before; 0: all the time.
	rebooted int64
}

func factsOf(n *modelv1.Node) *facts {
	f := &facts{
		version:  n.GetMeta().GetVersion(),
		place:    schedule.NodeOf(n),
		rebooted: n.GetStatus().GetRebootedAt(),
		reap: reap.Node{
			Down:      n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_DOWN,
			LostSince: n.GetStatus().GetLostSince(),
		},
	}
	if n.GetMembership() == modelv1.Membership_MEMBERSHIP_PENDING {
		f.place.State = modelv1.NodeState_NODE_STATE_UNKNOWN // nobody has let it in yet
	}
	if len(n.GetStatus().GetTwinBoot()) > 0 && f.place.Availability != modelv1.Availability_AVAILABILITY_DRAIN {
		// Two machines use its identity: which of them gets a task, nobody can tell.
		f.place.Availability = modelv1.Availability_AVAILABILITY_PAUSE
	}
	name := n.GetSpec().GetName()
	if name == "" {
		name = f.place.Hostname
	}
	if name == "" {
		name = f.place.ID.Short()
	}
	f.stand = orchestrate.Node{ID: f.place.ID, Name: name, State: f.place.State, Availability: f.place.Availability}
	return f
}

// newWatcher returns a watcher for which everything is dirty.
func newWatcher(s *store.Store) *watcher {
	w := &watcher{
		store: s,
		watch: s.Watch(store.Key{Kind: store.KindService}, store.Key{Kind: store.KindTask},
			store.Key{Kind: store.KindNode}, store.Key{Kind: store.KindCluster}),
		dirty: make(map[id.ID]struct{}), wakes: make(map[id.ID]time.Time),
		unplaced: make(map[id.ID]bool), globals: make(map[id.ID]struct{}),
	}
	w.everything(s.Snapshot())
	return w
}

func (w *watcher) close() { w.watch.Close() }

func (w *watcher) mark(services ...id.ID) {
	for _, s := range services {
		w.dirty[s] = struct{}{}
	}
}

// everything makes every service dirty and reads every node anew.
func (w *watcher) everything(snap *store.Snapshot) {
	for s := range snap.Services() {
		w.mark(idOf(s.GetId()))
	}
	w.nodes = make(map[id.ID]*facts)
	for n := range snap.Nodes() {
		f := factsOf(n)
		w.nodes[f.place.ID] = f
	}
}

// look takes in what changed and returns a snapshot that holds it.
func (w *watcher) look() *store.Snapshot {
	changes, reset := w.watch.Take()
	snap := w.store.Snapshot() // after Take: it holds at least the changes taken
	w.now = snap.Now()
	if reset {
		w.everything(snap)
	}
	for _, c := range changes {
		w.take(snap, c)
	}
	for service, at := range w.wakes {
		if !at.After(w.now) {
			delete(w.wakes, service)
			w.mark(service)
		}
	}
	return snap
}

func (w *watcher) take(snap *store.Snapshot, c store.Change) {
	switch c.Kind {
	case store.KindService:
		w.mark(c.ID())
	case store.KindTask:
		w.mark(c.Service)
		if t := snap.Task(c.ID()); t == nil || t.Terminal() {
			w.roomFor()
		}
	case store.KindNode:
		w.takeNode(snap, c.ID())
	case store.KindCluster:
		for s := range snap.Services() {
			w.mark(idOf(s.GetId()))
		}
	}
}

// roomFor marks the services that wait for room.
func (w *watcher) roomFor() {
	for service, tight := range w.unplaced {
		if tight {
			w.mark(service)
		}
	}
}

// takeNode marks the services that a node's change could concern, if it is a
// change that plans can see: a beat is not.
func (w *watcher) takeNode(snap *store.Snapshot, node id.ID) {
	var f *facts
	if n := snap.Node(node); n != nil {
		f = factsOf(n)
	}
	old := w.nodes[node]
	if f == nil {
		delete(w.nodes, node)
	} else {
		w.nodes[node] = f
	}
	if f != nil && old != nil && reflect.DeepEqual(f, old) {
		return
	}
	for t := range snap.TasksByNode(node) {
		w.mark(t.Service)
	}
	for service := range w.unplaced {
		w.mark(service)
	}
	for service := range w.globals {
		w.mark(service)
	}
}

// takeDirty returns the dirty services in order, those first that were left; none is
// dirty then.
func (w *watcher) takeDirty() []id.ID {
	for _, s := range w.left {
		delete(w.dirty, s)
	}
	out := append(w.left, sortedIDs(w.dirty)...)
	clear(w.dirty)
	w.left = nil
	return out
}

// leave has services wait for the next round.
func (w *watcher) leave(services []id.ID) {
	w.left = services
	w.mark(services...)
}

// planned takes in what planning the service came to.
func (w *watcher) planned(service id.ID, o outcome) {
	delete(w.wakes, service)
	delete(w.unplaced, service)
	delete(w.globals, service)
	if !o.wake.IsZero() {
		w.wakes[service] = o.wake
	}
	if o.unplaced {
		w.unplaced[service] = o.tight
	}
	if o.global {
		w.globals[service] = struct{}{}
	}
}

// wait returns when there is something to look at, and not before pause is over.
func (w *watcher) wait(ctx context.Context, pause time.Duration) {
	if pause > 0 && !sleep(ctx, pause) {
		return
	}
	if len(w.dirty) > 0 {
		return
	}
	var next time.Time
	for _, at := range w.wakes {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	var due <-chan time.Time
	if !next.IsZero() {
		// Plans may live ahead of this clock, by log time; so does the timer.
		t := time.NewTimer(max(next.Sub(w.store.Now()), 0))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
	case <-w.watch.C():
	case <-due:
	}
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// idOf returns the id that an object of the store carries.
func idOf(b []byte) id.ID {
	x, _ := id.FromBytes(b) // apply refuses an object whose id is none
	return x
}
