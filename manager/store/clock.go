package store

import "time"

// Log time never runs back (R12), so it may be ahead of the clock here: a leader
// whose clock was wrong has written, or this clock was set back. It would stand
// still until the clock has caught up, and with it every delay that is measured by
// it. So it goes on by itself then, by the monotonic clock, and slower than that,
// so that the clock catches up: a delay lasts a ninth longer, and an hour is made
// good in ten.
const (
	paceOf = 9
	paceIn = 10
)

// A pace is how log time goes on here after an entry. It is no part of the state:
// each replica has its own, and what it says counts when it comes back in an entry.
type pace struct {
	logged int64     // log time at an entry
	at     time.Time // when that was applied here
}

// after is the pace once log time is now. An entry that says nothing later than
// what had come by itself changes nothing: else time would lose what each entry
// takes from its proposal to here.
func (p pace) after(now int64) pace {
	if now < p.reached() {
		return p
	}
	return pace{logged: now, at: time.Now()}
}

// reached is how far log time has come by itself.
func (p pace) reached() int64 {
	if p.at.IsZero() {
		return 0 // nothing was logged
	}
	return p.logged + int64(time.Since(p.at))/paceIn*paceOf
}

// Now is the time that plans are made for and entries are stamped with: the clock
// here, or log time as it has gone on if that is ahead. It is never behind log time.
func (s *Snapshot) Now() time.Time {
	now := time.Now()
	if t := max(s.pace.reached(), s.state.now); t > now.UnixNano() {
		return time.Unix(0, t)
	}
	return now
}

// Now is that of the newest snapshot.
func (s *Store) Now() time.Time { return s.Snapshot().Now() }
