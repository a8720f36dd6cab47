package store

import (
	"context"
	"slices"
	"sync"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// lines are where updates queue that lost a race: one line for each object that
// was raced for. There is one only while somebody is in it, so there are at most
// as many as updates under way rely on objects.
type lines struct {
	mu sync.Mutex // guards the field below and the counts in it; held for memory only
	by map[string]*line
}

// line is the queue for one object.
type line struct {
	turn   chan struct{} // capacity 1: full while one has its turn
	inside int           // that have their turn or wait for it
}

// spot is what a line is for: a kind and a key.
func spot(kind logv1.Kind, key []byte) string { return string(rune(kind)) + string(key) }

// spots are the objects a unit relies on or claims.
func spots(u *logv1.Unit) []string {
	var out []string
	for _, e := range u.GetExpects() {
		out = append(out, spot(e.GetKind(), e.GetKey()))
	}
	for _, op := range u.GetOperations() {
		for _, c := range []*modelv1.Claim{op.GetClaim(), op.GetRelease()} {
			if c != nil {
				out = append(out, spot(KindClaim, ClaimKey(c.GetKind(), c.GetKey())))
			}
		}
	}
	return out
}

// A queuer is one update's place in the lines. It belongs to one goroutine.
type queuer struct {
	lines *lines
	held  []string // where it has its turn, ascending
}

// crowded returns where others queue for what a unit relies on and q does not have
// its turn.
func (q *queuer) crowded(u *logv1.Unit) (out []string) {
	q.lines.mu.Lock()
	defer q.lines.mu.Unlock()
	if len(q.lines.by) == 0 {
		return nil
	}
	for _, s := range spots(u) {
		if q.lines.by[s] != nil && !slices.Contains(q.held, s) {
			out = append(out, s)
		}
	}
	return out
}

// join waits for the turn at spots, besides those q has, or until ctx ends. Turns
// are taken in one order, the spots', so that no two wait for each other: what
// comes behind a new one is given back and waited for again.
func (q *queuer) join(ctx context.Context, spots ...string) error {
	all := append(slices.Clone(q.held), spots...)
	slices.Sort(all)
	all = slices.Compact(all)
	same := 0
	for same < len(q.held) && q.held[same] == all[same] {
		same++
	}
	q.giveBack(same)
	for _, s := range all[same:] {
		if err := q.take(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (q *queuer) take(ctx context.Context, s string) error {
	l := q.lines.enter(s)
	select {
	case l.turn <- struct{}{}:
		q.held = append(q.held, s)
		return nil
	case <-ctx.Done():
		q.lines.exit(s)
		return context.Cause(ctx)
	}
}

// giveBack ends the turns from the nth on.
func (q *queuer) giveBack(n int) {
	for _, s := range q.held[n:] {
		<-q.lines.exit(s).turn
	}
	q.held = q.held[:n]
}

// enter puts one more into the line at s.
func (ls *lines) enter(s string) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.by[s]
	if l == nil {
		if ls.by == nil {
			ls.by = make(map[string]*line)
		}
		l = &line{turn: make(chan struct{}, 1)}
		ls.by[s] = l
	}
	l.inside++
	return l
}

// exit takes one out of the line at s, which is no more when it was the last.
func (ls *lines) exit(s string) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.by[s]
	if l.inside--; l.inside == 0 {
		delete(ls.by, s)
	}
	return l
}
