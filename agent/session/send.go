package session

import (
	"context"
	"errors"
	"io"
	"time"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// send writes to the stream until ctx ends or the farewell is said: the open
// first, with the first beat and every state that is not acknowledged, then
// beats in the manager's period, and states and descriptions as they come.
// What comes while a send is in flight goes with the next one.
//
// A period is counted from the answer to the beat before, if that comes within it. A
// manager answers those together that came together, so they come together again: it
// wakes, with all that it needs at hand, for many nodes and not for each.
func (l *link) send(ctx context.Context, s stream, open *dispatchv1.Open) error {
	w := writer{link: l, stream: s}
	if err := w.write(&dispatchv1.SessionRequest{Open: open, Beat: l.pulse.next(time.Now()), Clock: time.Now().UnixNano()}); err != nil {
		return unlessOver(err)
	}
	period, _ := l.pulse.times()
	beats := time.NewTicker(period)
	defer beats.Stop()
	doubt := time.NewTimer(l.untilDoubt())
	defer doubt.Stop()
	for {
		m := &dispatchv1.SessionRequest{}
		select {
		case <-ctx.Done():
			return nil
		case <-l.paced:
			period, _ = l.pulse.times()
			beats.Reset(period)
			doubt.Reset(l.untilDoubt())
			continue
		case <-doubt.C:
			if at := l.pulse.doubtAt(); !at.IsZero() && !time.Now().Before(at) {
				l.client.tell(ctx, event{link: l, news: doubted})
				doubt.Reset(period)
			} else {
				doubt.Reset(l.untilDoubt())
			}
			continue
		case <-beats.C:
			m.Beat, m.Clock = l.pulse.next(time.Now()), time.Now().UnixNano()
		case <-l.wake:
		case m.Farewell = <-l.farewell:
			if err := w.write(m); err != nil {
				return unlessOver(err)
			}
			return s.CloseSend()
		}
		if err := w.write(m); err != nil {
			return unlessOver(err)
		}
	}
}

// untilDoubt returns how long until the oldest unconfirmed beat is in doubt,
// or until it is worth looking again if none waits.
func (l *link) untilDoubt() time.Duration {
	at := l.pulse.doubtAt()
	if at.IsZero() {
		period, lease := l.pulse.times()
		return min(period, lease/3)
	}
	return max(time.Until(at), 0)
}

// writer adds to each message what is new since the last.
type writer struct {
	link      *link
	stream    stream
	cursor    uint64 // of the outbox
	sequence  uint64 // of the reports
	described uint64 // number of the description sent last
}

// write sends m with the states and the description that were not sent yet,
// in as many messages as it takes.
func (w *writer) write(m *dispatchv1.SessionRequest) error {
	if d, n := w.link.client.newest(); n != w.described {
		m.Description, w.described = d, n
	}
	for {
		reports, cursor, more := w.link.client.outbox.take(w.cursor)
		w.cursor = cursor
		if len(reports) > 0 {
			w.sequence++
			w.link.sent(sentBatch{sequence: w.sequence, number: cursor})
			m.Reports = &dispatchv1.Reports{Sequence: w.sequence, Reports: reports}
		}
		if !empty(m) {
			if err := w.stream.Send(m); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		m = &dispatchv1.SessionRequest{}
	}
}

// unlessOver drops the error by which Send says that the stream is over: why,
// is learnt by the one who receives.
func unlessOver(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func empty(m *dispatchv1.SessionRequest) bool {
	return m.GetOpen() == nil && m.GetBeat() == 0 && m.GetReports() == nil &&
		m.GetDescription() == nil && m.GetFarewell() == 0
}

// maxBatches bounds the batches whose acknowledgement is awaited. Of more, the
// older half is forgotten: what acknowledges a later one acknowledges them.
const maxBatches = 1024

func (l *link) sent(b sentBatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.batches) == maxBatches {
		l.batches = append([]sentBatch(nil), l.batches[maxBatches/2:]...)
	}
	l.batches = append(l.batches, b)
}
