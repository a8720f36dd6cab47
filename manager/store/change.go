package store

import (
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
	// Observed says that of a task only what its node saw of it changed.
	Observed bool
	// Was is the task before this change, nil if it is new or no task.
	Was *Task
	// Note is what a change of KindNote tells; such a one has no Key.
	Note *logv1.Note
}

// ID returns the id in Key: a task's, service's, node's, user's or the cluster's; for a
// revision its service's, for anything else zero.
func (c Change) ID() id.ID {
	if c.Kind == KindRevision {
		return c.Service
	}
	return asID(c.Key)
}

// An Observer sees every step of the state from one index to the next, in order,
// on the goroutine that applies: it must be quick, and wait for nothing.
type Observer interface {
	// Published is told of one index: the state before and after it, and what
	// changed, in the order of the changes.
	Published(before, after *Snapshot, changes []Change)
	// Restored is told that the state was replaced by a snapshot.
	Restored(now *Snapshot)
}

// Observe makes o see what happens from now on. It is called before the first
// Apply or Restore; there is one Observer.
func (s *Store) Observe(o Observer) { s.observer = o }
