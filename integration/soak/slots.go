package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// settleTime is how long after a fault was mended its host may still show what
	// the fault did: the node must be heard again, learn what became of its tasks,
	// and end those that have successors.
	settleTime = 20 * time.Second
	// lossTime is the least after which a host that is not heard any more is taken
	// for lost: the lease, without the time from its last beat to the fault.
	lossTime = 7 * time.Second
)

// checkSlots holds a history to what must be true of containers, where a host is
// lost while it feels a fault that may keep it from being heard, and until
// settleTime after it:
//
//   - two of one slot live at the same time only while the host of one of them is
//     lost, and was for lossTime before: a successor is not made sooner;
//   - a container on a host that is not lost does not end.
//
// What happens to other hosts excuses neither, and a fault through which a host is
// to be heard excuses nothing. It is exact where it can be: a container is known by
// the scans that saw it, so two that overlap were seen by the same scan twice.
func checkSlots(h history) error {
	var faults []error
	bySlot := map[string][]ran{}
	for _, r := range h.rans {
		bySlot[r.Slot] = append(bySlot[r.Slot], r)
		if r.Gone > 0 && !h.excused(r.Host, r.To, r.Gone) {
			faults = append(faults, fmt.Errorf("slots: %s ended at %v, and nothing was done to that host", r, seconds(r.Gone)))
		}
	}
	for _, rans := range bySlot {
		for i, a := range rans {
			for _, b := range rans[i+1:] {
				from, to := max(a.From, b.From), min(a.To, b.To)
				if from < to && !h.lost(a.Host, from, to) && !h.lost(b.Host, from, to) {
					faults = append(faults, fmt.Errorf("slots: %s and %s both live from %v to %v", a, b, seconds(from), seconds(to)))
				}
			}
		}
	}
	return errors.Join(faults...)
}

func (r ran) String() string {
	return fmt.Sprintf("task %.12s of %s on %s", r.Task, r.Slot, r.Host)
}

func seconds(ns int64) time.Duration { return time.Duration(ns).Round(10 * time.Millisecond) }

// excused reports whether a host felt a fault, or its end, at some time between
// two scans.
func (h history) excused(host string, from, to int64) bool {
	return slices.ContainsFunc(h.touches, func(t touch) bool {
		return t.Host == host && !t.Heard && t.From <= to && from <= t.To+int64(settleTime)
	})
}

// lost reports whether a host was lost all the time, and for lossTime before.
func (h history) lost(host string, from, to int64) bool {
	return covered(h.touches, func(t touch) bool { return t.Host == host && !t.Heard }, from-int64(lossTime), to)
}

// covered reports whether the touches that count, and the time after each, leave
// no gap from from to to, both included.
func covered(touches []touch, counts func(touch) bool, from, to int64) bool {
	mine := slices.DeleteFunc(slices.Clone(touches), func(t touch) bool { return !counts(t) })
	slices.SortFunc(mine, func(a, b touch) int { return cmp.Compare(a.From, b.From) })
	for _, t := range mine {
		if t.From <= from && from <= t.To+int64(settleTime) {
			from = t.To + int64(settleTime) + 1
		}
	}
	return from > to
}
