package store

import (
	"sync"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// maxQueue bounds what waits in one watch. When it is full the watch forgets the
// changes and says reset.
const maxQueue = 4096

// scope says by what of a task a Key asks for it.
type scope uint8

const (
	byObject scope = iota
	ofService
	ofNode
)

// A Key names what a watch is interested in: one object, or all of a kind if ID
// is zero. For revisions the ID is the service's; members and claims are watched
// all together.
type Key struct {
	Kind logv1.Kind
	ID   id.ID
	of   scope
}

// KeyTasksOfService names every task of a service.
func KeyTasksOfService(service id.ID) Key { return Key{Kind: KindTask, ID: service, of: ofService} }

// KeyWorkOfNode names every task placed on a node, but for what the node itself says
// of it: how each is to be, not how it is.
func KeyWorkOfNode(node id.ID) Key { return Key{Kind: KindTask, ID: node, of: ofNode} }

// hub wakes the watches. The cost of a change grows with the watches that asked
// for it and with no others.
type hub struct {
	mu    sync.Mutex // guards the fields below and the queues of all watches
	byKey map[Key]map[*Watch]struct{}
	// told counts changes, so that a watch with several keys gets each once.
	told uint64
	// next is closed at the next publish; nil while nobody waits for it.
	next chan struct{}
}

// A Watch collects the changes of its keys. One goroutine takes from it.
type Watch struct {
	hub  *hub
	keys []Key
	c    chan struct{}
	// The rest is guarded by hub.mu.
	queue []Change
	reset bool
	last  uint64 // number of the last change queued
}

// Watch begins to collect the changes of keys. Taken before a Snapshot, it misses
// nothing that the snapshot does not hold. It must be closed.
func (s *Store) Watch(keys ...Key) *Watch {
	w := &Watch{hub: &s.hub, keys: keys, c: make(chan struct{}, 1)}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, k := range keys {
		if s.hub.byKey[k] == nil {
			s.hub.byKey[k] = make(map[*Watch]struct{})
		}
		s.hub.byKey[k][w] = struct{}{}
	}
	return w
}

// C is ready while there may be something to take. Its capacity is 1: a wake that
// finds one waiting is the same wake.
func (w *Watch) C() <-chan struct{} { return w.c }

// Take returns what changed since the last Take, oldest first, indexes whole.
// reset says that the watch lost count (its queue overflowed or the state was
// replaced): the caller reads everything anew.
func (w *Watch) Take() (changes []Change, reset bool) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	changes, reset = w.queue, w.reset
	w.queue, w.reset = nil, false
	return changes, reset
}

// Close ends the watch. It may be called twice.
func (w *Watch) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	for _, k := range w.keys {
		delete(w.hub.byKey[k], w)
		if len(w.hub.byKey[k]) == 0 {
			delete(w.hub.byKey, k)
		}
	}
	w.keys, w.queue = nil, nil
}

// tell gives the changes of one publish to the watches, in one go, so that Take
// never sees part of an index.
func (h *hub) tell(changes []Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeWaiters()
	if len(h.byKey) == 0 {
		return
	}
	for _, c := range changes {
		h.told++
		h.give(Key{Kind: c.Kind}, c)
		if x := c.ID(); !x.IsZero() {
			h.give(Key{Kind: c.Kind, ID: x}, c)
		}
		if c.Kind == KindTask {
			h.give(KeyTasksOfService(c.Service), c)
			if !c.Node.IsZero() && !c.Observed {
				h.give(KeyWorkOfNode(c.Node), c)
			}
		}
	}
}

func (h *hub) give(k Key, c Change) {
	for w := range h.byKey[k] {
		if w.last == h.told {
			continue
		}
		w.last = h.told
		switch {
		case w.reset: // everything is to be read anyway
		case len(w.queue) == maxQueue:
			w.queue, w.reset = nil, true
		default:
			w.queue = append(w.queue, c)
		}
		w.wake()
	}
}

// resetAll tells every watch that the state was replaced.
func (h *hub) resetAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeWaiters()
	for _, watches := range h.byKey {
		for w := range watches {
			w.queue, w.reset = nil, true
			w.wake()
		}
	}
}

func (w *Watch) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// nextPublish returns a channel that is closed when the state changes next.
func (h *hub) nextPublish() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	return h.next
}

func (h *hub) wakeWaiters() {
	if h.next != nil {
		close(h.next)
		h.next = nil
	}
}
