package store

import (
	"slices"
	"sort"
	"sync"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// A Change says that an object was written or, as a tombstone, deleted. It is a
// hint where to look: what the object is now is in the Snapshot.
type Change struct {
	Kind  logv1.Kind
	Key   []byte
	Index uint64
	// Service is the service of a task or revision; Node the node of a task or
	// member. They outlive the object.
	Service, Node id.ID
	Deleted       bool
}

// ID returns the id in Key: a task's, service's, node's, user's or the cluster's; for a
// revision its service's, for anything else zero.
func (c Change) ID() id.ID {
	if c.Kind == KindRevision {
		return c.Service
	}
	return asID(c.Key)
}

// What the change log keeps at most (R13).
const (
	maxLogEntries = 100_000
	maxLogBytes   = 16 << 20
	changeBytes   = 96 // a Change without its key
)

// changeLog is the recent changes, oldest first, so that a watch can resume from
// a recent index.
type changeLog struct {
	mu      sync.Mutex // guards the fields below
	changes []Change
	bytes   int
	// floor is the greatest index of which changes were forgotten: resuming from
	// it or later is possible.
	floor uint64
}

// append adds the changes of one index and forgets the oldest indexes beyond the
// bounds, whole.
func (l *changeLog) append(changes []Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, changes...)
	for _, c := range changes {
		l.bytes += changeBytes + len(c.Key)
	}
	n := 0
	for n < len(l.changes) && (len(l.changes)-n > maxLogEntries || l.bytes > maxLogBytes || l.changes[n].Index == l.floor) {
		l.floor = l.changes[n].Index
		l.bytes -= changeBytes + len(l.changes[n].Key)
		n++
	}
	// The array's dead head goes when append next outgrows it.
	l.changes = l.changes[n:]
}

// reset forgets everything up to index.
func (l *changeLog) reset(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes, l.bytes, l.floor = nil, 0, index
}

// ChangesSince returns what changed after index, oldest first, indexes whole. ok
// is false if the store no longer knows (too old, or a snapshot was installed
// since) or does not know yet: the caller lists again.
func (s *Store) ChangesSince(index uint64) (changes []Change, ok bool) {
	l := &s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	// Changes are logged before their snapshot is published: what is ahead of it is
	// not told yet, so that the caller finds in the snapshot what it was told of.
	published := s.Snapshot().Index()
	if index < l.floor || index > published {
		return nil, false
	}
	after := func(index uint64) int {
		return sort.Search(len(l.changes), func(i int) bool { return l.changes[i].Index > index })
	}
	return slices.Clone(l.changes[after(index):after(published)]), true
}
