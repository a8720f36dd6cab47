package session

import (
	"sync"
	"time"
)

// maxUnconfirmed bounds the beats whose times are kept; of more, only the
// oldest matter.
const maxUnconfirmed = 256

// pulse knows which beats of a stream the leader has accounted for (R2).
type pulse struct {
	mu     sync.Mutex // guards the fields below
	period time.Duration
	lease  time.Duration
	beat   uint64      // the last that was sent
	sent   []time.Time // when the unconfirmed ones were sent, oldest first
	first  uint64      // the beat that sent[0] belongs to
	ever   bool        // one was confirmed
	// greeted says that the manager has said its hello.
	greeted bool
}

func newPulse() *pulse {
	return &pulse{period: defaultHeartbeat, lease: defaultLease, first: 1}
}

// set takes what the manager says of period and lease; zero keeps the default.
// The beats that were sent before its first word wait from now on: until then it
// had not come to them, and how long that may take is not the pulse's.
func (p *pulse) set(period, lease time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.sent {
		if !p.greeted {
			p.sent[i] = now
		}
	}
	p.greeted = true
	if period > 0 {
		p.period = period
	}
	if lease > 0 {
		p.lease = lease
	}
}

// next counts the beat that is sent now.
func (p *pulse) next(now time.Time) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beat++
	if len(p.sent) == 0 {
		p.first = p.beat
	}
	if len(p.sent) < maxUnconfirmed {
		p.sent = append(p.sent, now)
	}
	return p.beat
}

// confirm takes note that the leader has accounted for all up to beat, and
// reports whether that was news.
func (p *pulse) confirm(beat uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if beat < p.first || beat > p.beat || len(p.sent) == 0 {
		return false
	}
	n := min(int(beat-p.first)+1, len(p.sent))
	p.sent = p.sent[n:]
	p.first = beat + 1
	p.ever = true
	return true
}

// settled reports whether no beat waits to be confirmed.
func (p *pulse) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent) == 0
}

// doubtAt returns the moment at which the oldest unconfirmed beat has waited a
// third of the lease; zero if none waits, or the manager has yet to say hello.
func (p *pulse) doubtAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) == 0 || !p.greeted {
		return time.Time{}
	}
	return p.sent[0].Add(p.lease / 3)
}

// overdue reports whether a beat has waited for a whole lease.
func (p *pulse) overdue(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent) > 0 && now.Sub(p.sent[0]) >= p.lease
}

// confirmed reports whether the leader is known to count this stream alive.
func (p *pulse) confirmed(now time.Time) bool {
	at := p.doubtAt()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ever && (at.IsZero() || now.Before(at))
}

func (p *pulse) times() (period, lease time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.period, p.lease
}
