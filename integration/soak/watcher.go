package main

import (
	"context"
	"time"

	"github.com/skep-project/skep/integration/fleet"
)

// scanTime is how often the machine is looked over for containers.
const scanTime = 100 * time.Millisecond

// A watcher writes down which containers live, without asking any daemon.
type watcher struct {
	fleet  *fleet.Fleet
	record *recorder
	seen   map[fleet.Process]*ran
}

// run watches until ctx ends, and then writes down those that live on and the
// end of the history: what came after was not seen.
func (w *watcher) run(ctx context.Context) {
	w.seen = map[fleet.Process]*ran{}
	for ctx.Err() == nil {
		w.scan()
		rest(ctx, scanTime)
	}
	at := w.scan()
	for _, r := range w.seen {
		w.record.put(line{Ran: r})
	}
	w.record.put(line{End: &end{At: at}})
}

// scan looks once, and returns when. A container is seen at the moment the scan
// began; one that is not found any more is written down as it was seen last, and
// was gone when the scan ended.
func (w *watcher) scan() (at int64) {
	at = w.record.now()
	for _, p := range w.fleet.Processes() {
		if w.seen[p] == nil {
			w.seen[p] = &ran{Slot: p.Service + "." + p.Slot, Task: p.Task, Host: p.Host, From: at}
		}
		w.seen[p].To = at
	}
	done := w.record.now()
	for p, r := range w.seen {
		if r.To != at {
			r.Gone = done
			w.record.put(line{Ran: r})
			delete(w.seen, p)
		}
	}
	return at
}
