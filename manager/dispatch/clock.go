package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	// clockPeriod is how often managers tell the leader their clocks, and how often
	// it compares its own with them.
	clockPeriod = 5 * time.Second
	// clockTolerance is how far off them it may be (R12).
	clockTolerance = 5 * time.Second
)

// keepTime hands leadership on if this leader's clock is far from those of the
// other managers: log time is the leader's clock, and it never runs back.
func (d *desk) keepTime(ctx context.Context) error {
	t := time.NewTicker(clockPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		off := d.clockOff()
		if off == 0 {
			continue
		}
		d.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "this leader's clock is not that of the other managers; handing leadership on",
			slog.Duration("behind", off))
		if err := d.cfg.Raft.TransferLeadership(ctx, fmt.Sprintf("its clock is %v off those of the other managers", off.Round(time.Millisecond))); err != nil && ctx.Err() == nil {
			d.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "leadership was not handed on", slog.Any("err", err))
		}
	}
}

// clockOff is how far this manager's clock is behind those of its peers, 0 if
// that is within tolerance.
func (d *desk) clockOff() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	offsets := make([]time.Duration, 0, len(d.lines))
	for l := range d.lines {
		if l.manager != d.cfg.Self {
			offsets = append(offsets, l.offset)
		}
	}
	return off(offsets)
}

// off judges by the median of the peers' clocks. A single peer proves nothing:
// of two clocks nobody can tell which is wrong.
func off(offsets []time.Duration) time.Duration {
	if len(offsets) < 2 {
		return 0
	}
	slices.Sort(offsets)
	// With an even count, the one nearer to this clock: both must be far.
	low, high := offsets[(len(offsets)-1)/2], offsets[len(offsets)/2]
	median := low
	if low.Abs() > high.Abs() {
		median = high
	}
	if median.Abs() <= clockTolerance {
		return 0
	}
	return median
}
