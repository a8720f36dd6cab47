package session

import (
	"slices"
	"sort"
	"sync"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// batchReports bounds one message of reports: well below the size a manager
// accepts.
const batchReports = 2000

// outbox holds the newest state of each task that no manager has acknowledged.
// Every stream reads it with a cursor of its own; what is acknowledged on one
// leaves it for all. A state that is overtaken before it was sent is not sent.
type outbox struct {
	mu      sync.Mutex // guards the fields below; held for memory only
	last    uint64     // number of the newest entry
	pending map[id.ID]entry
	order   []ticket // ascending numbers; some point to entries that were overtaken or acknowledged
	wakes   map[chan struct{}]bool
}

// entry is a state that waits for its acknowledgement.
type entry struct {
	number uint64
	status *modelv1.TaskStatus
}

type ticket struct {
	number uint64
	task   id.ID
}

func newOutbox() *outbox {
	return &outbox{pending: make(map[id.ID]entry), wakes: make(map[chan struct{}]bool)}
}

// put takes a task's newest state and wakes the streams.
func (o *outbox) put(task id.ID, status *modelv1.TaskStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	o.pending[task] = entry{number: o.last, status: status}
	o.order = append(o.order, ticket{number: o.last, task: task})
	if len(o.order) > 2*len(o.pending)+64 {
		o.order = slices.DeleteFunc(o.order, func(t ticket) bool { return o.pending[t.task].number != t.number })
	}
	for w := range o.wakes {
		poke(w)
	}
}

// take returns the entries after the cursor, at most batchReports, and the
// cursor behind them; more says that there are others.
func (o *outbox) take(cursor uint64) (reports []*dispatchv1.TaskReport, next uint64, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from := sort.Search(len(o.order), func(i int) bool { return o.order[i].number > cursor })
	for _, t := range o.order[from:] {
		e, ok := o.pending[t.task]
		if !ok || e.number != t.number {
			continue
		}
		if len(reports) == batchReports {
			return reports, cursor, true
		}
		reports = append(reports, &dispatchv1.TaskReport{Task: t.task.Bytes(), Status: e.status})
		cursor = t.number
	}
	return reports, max(cursor, o.last), false
}

// acknowledged removes every entry up to number and returns them: on the
// stream that says so, all of them were sent and committed.
func (o *outbox) acknowledged(number uint64) map[id.ID]*modelv1.TaskStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	done := make(map[id.ID]*modelv1.TaskStatus)
	upTo := sort.Search(len(o.order), func(i int) bool { return o.order[i].number > number })
	for _, t := range o.order[:upTo] {
		if e, ok := o.pending[t.task]; ok && e.number == t.number {
			done[t.task] = e.status
			delete(o.pending, t.task)
		}
	}
	o.order = slices.Delete(o.order, 0, upTo)
	return done
}

// waiting returns how many states wait for their acknowledgement.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending)
}

// listen returns a channel that is poked by each put, until forget.
func (o *outbox) listen() chan struct{} {
	w := make(chan struct{}, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wakes[w] = true
	return w
}

func (o *outbox) forget(w chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.wakes, w)
}

// poke makes a pending wake in a channel of capacity 1; one is enough.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
