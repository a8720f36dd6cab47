package store

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// A Conflict is a unit that was not applied because the state is not what the
// unit relies on. DB.Update retries it; a loop re-plans. It is errdefs' Conflict.
type Conflict struct {
	// Kind and Key name the object in the way.
	Kind logv1.Kind
	Key  []byte
	// What says what is the matter with it: "has version 12, expected 10".
	What string
}

// Error says which object is in the way and how.
func (c *Conflict) Error() string {
	return fmt.Sprintf("%s %s %s", kindName(c.Kind), keyName(c.Kind, c.Key), c.What)
}

// Unwrap makes a Conflict an errdefs.ErrConflict.
func (*Conflict) Unwrap() error { return errdefs.ErrConflict }

// A Duplicate is a transaction that was applied before, under the same request
// id (R10). It was not applied again.
type Duplicate struct {
	// Objects are the ids the first one made.
	Objects []id.ID
	// Hash is that of the first request. A retry has the same; another hash means
	// that the caller used one id for two requests.
	Hash []byte
	// Index is the entry that answered it.
	Index uint64
}

// Error says that the request has its answer already.
func (d *Duplicate) Error() string {
	return fmt.Sprintf("the request was answered by entry %d", d.Index)
}

// Unwrap makes a Duplicate an errdefs.ErrAlreadyExists.
func (*Duplicate) Unwrap() error { return errdefs.ErrAlreadyExists }

// A Partial is a transaction of several units of which some conflicted; the
// others stand (R11).
type Partial struct {
	// Units are the numbers of those dropped, ascending; Conflicts says why, one
	// for each.
	Units     []int
	Conflicts []*Conflict
}

// Error says how many units were dropped and why the first was.
func (p *Partial) Error() string {
	return fmt.Sprintf("%d units dropped, the first because %v", len(p.Units), p.Conflicts[0])
}

// Unwrap makes a Partial an errdefs.ErrConflict.
func (*Partial) Unwrap() error { return errdefs.ErrConflict }

// An Unreadable is an entry that this version does not understand. Nothing of it
// was applied and the store stays at the index before it: the manager must stop
// and say so, for a skipped entry makes replicas differ.
type Unreadable struct {
	Index uint64
	What  string
}

// Error says what was not understood and what to do.
func (u *Unreadable) Error() string {
	return fmt.Sprintf("log entry %d: %s: this version is too old for this log; install the version the other managers run", u.Index, u.What)
}

// Unwrap makes an Unreadable an errdefs.ErrNotImplemented.
func (*Unreadable) Unwrap() error { return errdefs.ErrNotImplemented }
