package rpc

import (
	"errors"
	"fmt"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// ClockTolerance is how far two clocks may be apart before anything is said of it.
const ClockTolerance = 5 * time.Second

// ClockHint is what to do about a clock.
const ClockHint = "set the clock of this host, and keep it right by NTP (chrony, systemd-timesyncd)"

// ClockWords says how far this host's clock is ahead of the one of manager by, "" if
// that is within the tolerance.
func ClockWords(ahead time.Duration, by id.ID) string {
	if ahead.Abs() <= ClockTolerance {
		return ""
	}
	return fmt.Sprintf("this host's clock is %s the swarm's, by what manager %s says", OffBy(ahead), by.Short())
}

// OffBy says how far a clock is ahead of another: "3h0m0s behind".
func OffBy(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " behind"
	}
	return ahead.Round(time.Second).String() + " ahead of"
}

// RefuseTime returns a refusal whose reason is time. Its client is told, too, how
// far its clock is off that of this manager.
func RefuseTime(err error, hint string, manager id.ID, now time.Time) error {
	return &refused{err: err, refusal: &rpcv1.Refusal{Hint: hint, Clock: now.UnixNano(), ClockOf: manager.Bytes()}}
}

// tellClock adds to a refusal for a reason of time how far this host's clock is off,
// if it is. now is that clock.
func tellClock(err error, r *rpcv1.Refusal, now time.Time) (*rpcv1.Refusal, error) {
	by, bad := id.FromBytes(r.GetClockOf())
	if r.GetClock() == 0 || bad != nil {
		return r, err
	}
	words := ClockWords(now.Sub(time.Unix(0, r.GetClock())), by)
	if words == "" {
		return r, err
	}
	out := &rpcv1.Refusal{Hint: ClockHint, Clock: r.GetClock(), ClockOf: r.GetClockOf()}
	return out, fmt.Errorf("%w; %s", err, words)
}

// early reports whether a certificate is wrong in nothing but that it is not valid
// yet. That keeps nobody out: what is signed by the root was made by a manager, and
// counts by its record or its place on the list, whatever a clock says
// (docs/decisions/0023-not-valid-yet.md).
func early(err error, now, notBefore time.Time) bool {
	return errors.Is(err, ca.ErrClock) && now.Before(notBefore)
}
