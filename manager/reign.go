package manager

import (
	"context"
	"sync"
)

// reign is the time in which one member leads, as this one hears. The zero reign
// is nobody's.
type reign struct {
	mu     sync.Mutex // guards the fields below; held for memory only
	leader uint64     // raft id, or 0
	former uint64     // who led last, other than leader; 0 if nobody did
	// now ends with the reign.
	now context.Context //nolint:containedctx // many calls end with it, whoever began them
	end context.CancelFunc
}

// of notes who leads: when that is another, or nobody, what followed the last
// one ends. A manager that stops ends no reign: its calls are let finish.
func (r *reign) of(ctx context.Context, leader uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != nil && r.leader == leader {
		return
	}
	if r.end != nil {
		r.end()
	}
	if r.leader != 0 {
		r.former = r.leader
	}
	r.leader = leader
	r.now, r.end = context.WithCancel(context.WithoutCancel(ctx))
}

// before returns who led before self did, as far as this member has heard; 0 if
// nobody.
func (r *reign) before(self uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader != self && r.leader != 0 {
		return r.leader
	}
	return r.former
}

// follow returns ctx for what ends with the reign.
func (r *reign) follow(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil {
		return ctx, stop
	}
	leave := context.AfterFunc(r.now, stop)
	return ctx, func() { leave(); stop() }
}
