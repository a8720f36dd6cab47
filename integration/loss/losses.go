package loss

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skep-project/skep/integration/fleet"
)

const (
	wholeTime = 2 * time.Minute
	// taskTime bounds the wait for tasks to run elsewhere; the lease is 10 s.
	taskTime = time.Minute
)

// A Loss is something that is done to a fleet, and what is promised of it.
type Loss struct {
	Name string
	// Typical and Worst are what the median and the longest of many trials are to
	// be at most.
	Typical, Worst time.Duration
	// try does it once, mends it, and returns how long it was felt.
	try func(context.Context, *rig) (time.Duration, error)
}

// The losses that are named elsewhere.
var (
	// LeaderDark is felt until a survivor has a write acknowledged.
	LeaderDark = Loss{"leader's host dark: no write", time.Second, 2500 * time.Millisecond, leaderDark}
	// HostGoes and HostDark are felt until what the host ran runs elsewhere.
	HostGoes = Loss{"host says it goes down: tasks elsewhere", 2 * time.Second, 2 * time.Second, hostGoes}
	HostDark = Loss{"host dark: tasks elsewhere", 12 * time.Second, 12 * time.Second, hostDark}
)

// All returns every loss, in the order in which they are best tried.
func All() []Loss {
	const ms, s = time.Millisecond, time.Second
	return []Loss{
		{"leader's process killed: no write", 300 * ms, 1 * s, leaderKilled},
		{"leader stopped in order: no write", 300 * ms, 300 * ms, leaderStopped},
		LeaderDark,
		{"worker's daemon killed and back: tasks moved", 0, 0, daemonBack},
		HostGoes,
		{"host back after a reboot: tasks run again", 2 * s, 2 * s, hostReboots},
		HostDark,
	}
}

// Prepare gives a fleet of three managers and two workers the service whose
// tasks are lost.
func Prepare(ctx context.Context, f *fleet.Fleet) error {
	return f.Create(ctx, "still", "--replicas 6 --constraint node.role==worker")
}

// Try waits until the fleet, which Prepare was called for, is whole, has the loss
// happen once and mends it. It returns how long the loss was felt.
func (l Loss) Try(ctx context.Context, f *fleet.Fleet) (time.Duration, error) {
	if err := f.Whole(ctx, wholeTime); err != nil {
		return 0, fmt.Errorf("before a trial of %q: %w", l.Name, err)
	}
	took, err := l.try(ctx, &rig{f})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.Name, err)
	}
	return took, nil
}

// A rig is a fleet to try losses on.
type rig struct{ *fleet.Fleet }

func leaderKilled(ctx context.Context, r *rig) (time.Duration, error) {
	return r.lead(ctx, func(m *fleet.Member) error { return m.KillDaemon(ctx) })
}

func leaderStopped(ctx context.Context, r *rig) (time.Duration, error) {
	return r.lead(ctx, func(m *fleet.Member) error { return m.StopDaemon(ctx) })
}

func leaderDark(ctx context.Context, r *rig) (time.Duration, error) {
	return r.lead(ctx, (*fleet.Member).Dark)
}

// lead does something to the leader while a survivor is written to, and returns
// the longest time in which no write was acknowledged.
func (r *rig) lead(ctx context.Context, strike func(*fleet.Member) error) (time.Duration, error) {
	leader, err := r.Leader(ctx)
	if err != nil {
		return 0, err
	}
	survivors := slices.DeleteFunc(r.Managers(), func(m *fleet.Member) bool { return m == leader })
	w, err := startWriter(ctx, survivors[rand.N(len(survivors))])
	if err != nil {
		return 0, err
	}
	err = w.after(ctx, 50)
	if err == nil {
		err = strike(leader)
	}
	if err == nil {
		err = w.after(ctx, 50)
	}
	gap := w.stop()
	return gap, errors.Join(err, leader.Start(ctx))
}

// daemonBack kills a worker's daemon and starts it again, and returns a second
// for each container that is not what it was.
func daemonBack(ctx context.Context, r *rig) (time.Duration, error) {
	w, before := r.busiest()
	if err := errors.Join(w.KillDaemon(ctx), w.Start(ctx), r.Whole(ctx, wholeTime)); err != nil {
		return 0, err
	}
	var moved time.Duration
	after := r.Processes()
	for _, p := range before {
		if !slices.Contains(after, p) {
			moved += time.Second
		}
	}
	if len(after) > len(before) {
		moved += time.Second
	}
	return moved, nil
}

func hostGoes(ctx context.Context, r *rig) (time.Duration, error) {
	return r.host(ctx, func(w *fleet.Member) (time.Time, error) {
		began := time.Now()
		_, err := w.Must(ctx, "kill -PWR $(busybox pidof ctl); while busybox pidof ctl >/dev/null; do busybox usleep 10000; done")
		return began, errors.Join(err, w.Dark())
	})
}

// hostReboots counts from the start of the daemon on the host that is back.
func hostReboots(ctx context.Context, r *rig) (time.Duration, error) {
	return r.host(ctx, func(w *fleet.Member) (time.Time, error) {
		if err := errors.Join(w.Dark(), w.Power(ctx)); err != nil {
			return time.Time{}, err
		}
		return time.Now(), w.Start(ctx)
	})
}

func hostDark(ctx context.Context, r *rig) (time.Duration, error) {
	return r.host(ctx, func(w *fleet.Member) (time.Time, error) { return time.Now(), w.Dark() })
}

// host does something to the worker that runs most, and returns the time until
// as many containers run as before, none of them one of those it ran.
func (r *rig) host(ctx context.Context, strike func(*fleet.Member) (time.Time, error)) (time.Duration, error) {
	w, before := r.busiest()
	old := map[string]bool{}
	for _, p := range before {
		old[p.Task] = p.Host == w.Name()
	}
	began, err := strike(w)
	if err != nil {
		return 0, err
	}
	err = fleet.Until(ctx, taskTime, func(context.Context) error {
		n := 0
		for _, p := range r.Processes() {
			if !old[p.Task] {
				n++
			}
		}
		if n < len(before) {
			return fmt.Errorf("%d of %d containers run", n, len(before))
		}
		return nil
	})
	took := time.Since(began)
	if !w.DaemonRuns() {
		err = errors.Join(err, w.Start(ctx))
	}
	return took, err
}

// busiest is the worker that runs most containers, and all that run.
func (r *rig) busiest() (*fleet.Member, []fleet.Process) {
	all, count := r.Processes(), map[string]int{}
	for _, p := range all {
		count[p.Host]++
	}
	return slices.MaxFunc(r.Members, func(a, b *fleet.Member) int { return count[a.Name()] - count[b.Name()] }), all
}
