package consensus

import (
	"context"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// inboxMessages and inboxBytes bound the messages of peers that wait for the
// step goroutine. Beyond them messages are dropped: raft sends them again.
const (
	inboxMessages = 8192
	inboxBytes    = 64 << 20
)

// work is what the step goroutine takes from its inbox at once.
type work struct {
	proposals []*Proposal
	reads     []*Read
	forget    []*Read
	messages  []*raftpb.Message
	appended  []appendWork
	applied   []appliedWork
	calls     []func(*Core) // rare things, done in the order they came
}

type appliedWork struct {
	apply   *Apply
	changes []Accepted
	era     uint64
}

// inbox brings everything to the step goroutine, which takes all there is at
// once. One wake-up serves any number of senders.
type inbox struct {
	wake chan struct{} // capacity 1: "there is work"

	mu    sync.Mutex // guards the fields below
	work  work
	count int // of proposals
	bytes int // of proposals
	msgs  int // bytes of messages
	room  chan struct{}
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), room: make(chan struct{})}
}

func (b *inbox) put(add func(*work)) {
	b.mu.Lock()
	add(&b.work)
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// propose puts p in, and waits for room if there is none.
func (b *inbox) propose(ctx context.Context, p *Proposal) error {
	for {
		b.mu.Lock()
		if b.count < waitingCount && (b.count == 0 || b.bytes+len(p.tx) <= waitingBytes) {
			b.work.proposals = append(b.work.proposals, p)
			b.count, b.bytes = b.count+1, b.bytes+len(p.tx)
			b.mu.Unlock()
			b.ring()
			return nil
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-room:
		}
	}
}

// message puts m in, or reports that there is no room.
func (b *inbox) message(m *raftpb.Message) bool {
	size := 64
	for _, e := range m.GetEntries() {
		size += len(e.GetData()) + 32
	}
	b.mu.Lock()
	defer b.ring()
	defer b.mu.Unlock()
	if len(b.work.messages) >= inboxMessages || b.msgs > 0 && b.msgs+size > inboxBytes {
		return false
	}
	b.work.messages = append(b.work.messages, m)
	b.msgs += size
	return true
}

// take returns all there is; proposals stay if the core is full.
func (b *inbox) take(full bool) work {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.work
	b.work, b.msgs = work{}, 0
	if full {
		b.work.proposals, w.proposals = w.proposals, nil
		return w
	}
	if b.count > 0 {
		b.count, b.bytes = 0, 0
		close(b.room)
		b.room = make(chan struct{})
	}
	return w
}

// line is an unbounded line of work to one goroutine. What stands in it is
// bounded by raft: by the entries that may be uncommitted or unapplied.
type line[T any] struct {
	wake chan struct{} // capacity 1: "there is work"
	mu   sync.Mutex    // guards work
	work []T
}

func newLine[T any]() *line[T] { return &line[T]{wake: make(chan struct{}, 1)} }

func (l *line[T]) put(w ...T) {
	if len(w) == 0 {
		return
	}
	l.mu.Lock()
	l.work = append(l.work, w...)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *line[T]) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.work)
}

func (l *line[T]) take() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.work
	l.work = nil
	return w
}
