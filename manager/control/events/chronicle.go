package events

import (
	"slices"
	"sort"
	"sync"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// What a chronicle remembers at most; the oldest indexes are forgotten first, and
// whole.
const (
	maxEvents = 50_000
	maxBytes  = 16 << 20
)

// An Entry is one event and where it stands.
type Entry struct {
	// Index and At (Unix nanoseconds of log time) of the change that it follows
	// from.
	Index uint64
	At    int64
	Event *controlv1.Event
	// Labels of what it is about. They are the state's own: stone.
	Labels map[string]string
	// Node and Service it is about or happened at; zero if there is none.
	Node, Service id.ID
}

// A memo is one event as a chronicle remembers it: the entry, or what tells it when
// it is asked for. Of tasks there are many events and few who listen.
type memo struct {
	index uint64
	at    int64
	entry *Entry // of anything but a task
	turn  taskTurn
}

// tell returns what m is remembered for.
func (m *memo) tell() Entry {
	e := Entry{}
	if m.entry != nil {
		e = *m.entry
	} else {
		e = m.turn.tell()
	}
	e.Index, e.At = m.index, m.at
	return e
}

// size is about what m costs to remember, in bytes.
func (m *memo) size() int {
	if m.entry == nil {
		return m.turn.size()
	}
	return m.entry.size()
}

// A Chronicle is the recent events. It observes a store from before its first
// change on, so it knows what was applied again at the start of the manager too.
type Chronicle struct {
	mu    sync.Mutex // guards the fields below; held for memory only
	memos []memo
	bytes int
	// floor is the index up to which something may be forgotten, at its time.
	floor uint64
	at    int64
	// changed is closed when there is more, or less; nil while nobody waits.
	changed chan struct{}
}

// Published implements store.Observer.
func (c *Chronicle) Published(before, after *store.Snapshot, changes []store.Change) {
	if memos := derive(before, after, changes); len(memos) > 0 {
		c.append(memos)
	}
}

// Restored implements store.Observer: what the state was before is not known.
func (c *Chronicle) Restored(now *store.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memos, c.bytes = nil, 0
	c.floor, c.at = now.Index(), now.LogTime().UnixNano()
	c.wake()
}

// append adds the events of one index.
func (c *Chronicle) append(memos []memo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memos = append(c.memos, memos...)
	for i := range memos {
		c.bytes += memos[i].size()
	}
	n := 0
	for n < len(c.memos) && (len(c.memos)-n > maxEvents || c.bytes > maxBytes || c.memos[n].index == c.floor) {
		c.floor, c.at = c.memos[n].index, c.memos[n].at
		c.bytes -= c.memos[n].size()
		c.memos[n] = memo{}
		n++
	}
	c.memos = c.memos[n:] // the array's dead head goes when append next outgrows it
	c.wake()
}

// wake is called with the lock held.
func (c *Chronicle) wake() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// size is about what e costs to remember, in bytes.
func (e *Entry) size() int {
	v := e.Event
	n := 300 + len(v.GetName()) + len(v.GetReason())
	for k, a := range v.GetAttributes() {
		n += 64 + len(k) + len(a)
	}
	return n
}

// A Page is what a chronicle holds behind an index.
type Page struct {
	// Entries in order, indexes whole.
	Entries []Entry
	// Floor is 0, or the index to go on from because something between it and the
	// index asked for is forgotten; there are no entries then.
	Floor uint64
	// Changed is closed when there is more.
	Changed <-chan struct{}
}

// After returns what happened behind index: some indexes, the next ones.
func (c *Chronicle) After(index uint64) Page {
	p, memos := c.page(index)
	for i := range memos { // without the lock: who applies does not wait for words
		p.Entries = append(p.Entries, memos[i].tell())
	}
	return p
}

// page returns the page behind index without its entries, and what tells them.
func (c *Chronicle) page(index uint64) (Page, []memo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	p := Page{Changed: c.changed}
	if index < c.floor {
		p.Floor = c.floor
		return p, nil
	}
	from := c.find(func(m *memo) bool { return m.index > index })
	to := min(from+pageEvents, len(c.memos))
	for to < len(c.memos) && c.memos[to].index == c.memos[to-1].index {
		to++
	}
	return p, slices.Clone(c.memos[from:to])
}

// pageEvents is about how many events a reader takes at once.
const pageEvents = 1000

// Since returns the index behind which the events from the time at (Unix
// nanoseconds of log time) on begin. whole is false if some of them may be
// forgotten. With none so far, it is the index head.
func (c *Chronicle) Since(at int64, head uint64) (after uint64, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	after = max(head, c.floor)
	if i := c.find(func(m *memo) bool { return m.at >= at }); i < len(c.memos) {
		after = c.memos[i].index - 1
	}
	return after, c.floor == 0 || c.at < at
}

// Last returns the last of the actions that a node is remembered for; "" if none.
func (c *Chronicle) Last(node id.ID, actions ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range slices.Backward(c.memos) {
		if e := c.memos[i].entry; e != nil && e.Node == node && e.Event.GetType() == TypeNode && slices.Contains(actions, e.Event.GetAction()) {
			return e.Event.GetAction()
		}
	}
	return ""
}

// find returns the number of the first memo that ok holds of, which holds of all behind it.
func (c *Chronicle) find(ok func(*memo) bool) int {
	return sort.Search(len(c.memos), func(i int) bool { return ok(&c.memos[i]) })
}
