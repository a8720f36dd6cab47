package dispatch

import (
	"sync"
	"time"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// A line is one manager's connection to the desk. The desk writes what it has
// accounted for; the line's owner sends it on.
type line struct {
	manager id.ID
	// offset is how far the manager's clock was ahead of the desk's when it last
	// spoke. The desk's, under its mutex.
	offset time.Duration

	mu        sync.Mutex // guards the fields below
	accounted map[id.ID]*dispatchv1.Accounted
	sequence  uint64

	wake chan struct{} // capacity 1: there is something to answer
}

// account notes that a beat counts.
func (l *line) account(node id.ID, session, beat uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounted[node] = &dispatchv1.Accounted{Node: node.Bytes(), Session: session, Beat: beat}
	signal(l.wake)
}

// acknowledge notes that reports up to sequence are committed.
func (l *line) acknowledge(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence = max(l.sequence, sequence)
	signal(l.wake)
}

// answer takes what is to be told, nil if nothing is new.
func (l *line) answer(told uint64) *dispatchv1.RelayResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.accounted) == 0 && l.sequence == told {
		return nil
	}
	resp := &dispatchv1.RelayResponse{Sequence: l.sequence}
	for _, a := range l.accounted {
		resp.Accounted = append(resp.Accounted, a)
	}
	clear(l.accounted)
	return resp
}
