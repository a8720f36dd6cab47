package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/integration/fleet"
	"github.com/skep-project/skep/internal/lab"
)

// allFaults are what a host can meet.
func allFaults() []fault {
	heard := quietFaults()
	for i := range heard {
		heard[i].heard = true
	}
	return append(losses(), heard...)
}

// losses keep hosts from being heard, some only if they last.
func losses() []fault {
	const s = time.Second
	return []fault{
		{name: "daemon killed", most: 15 * s, victims: anyOne, make: killDaemons},
		{name: "leader's daemon killed", most: 5 * s, victims: theLeader, make: killDaemons},
		{name: "every daemon killed", most: 3 * s, victims: everyone, make: killDaemons},
		{name: "daemon stopped in order", most: 5 * s, victims: anyOne, make: stopDaemons},
		{name: "plug pulled", most: 20 * s, victims: anyOne, make: pullPlugs},
		{name: "leader's plug pulled", most: 8 * s, victims: theLeader, make: pullPlugs},
		{name: "power cut", most: 3 * s, victims: everyone, make: pullPlugs},
		{name: "paused", most: 20 * s, victims: anyOne, make: pause},
		{name: "leader paused", most: 8 * s, victims: theLeader, make: pause},
		{name: "cut off", most: 20 * s, victims: anyOne, make: isolate(lab.Both)},
		{name: "leader cut off", most: 8 * s, victims: theLeader, make: isolate(lab.Both)},
		{name: "deaf", most: 15 * s, victims: anyOne, make: isolate(lab.ToB)},
		{name: "mute", most: 15 * s, victims: anyOne, make: isolate(lab.ToA)},
		{name: "leader deaf", most: 8 * s, victims: theLeader, make: isolate(lab.ToB)},
		{name: "leader mute", most: 8 * s, victims: theLeader, make: isolate(lab.ToA)},
		{name: "packets lost by one", most: 10 * s, victims: anyOne, make: lossy},
		{name: "packets lost by all", most: 8 * s, victims: everyone, make: lossy},
		{name: "clock stepped", most: 30 * s, victims: anyOne, make: stepClocks},
		{name: "leader's clock stepped", most: 30 * s, victims: theLeader, make: stepClocks},
		{name: "clocks of all stepped", most: 15 * s, victims: everyone, make: stepClocks},
		{name: "log torn", most: 5 * s, victims: anyManager, make: tearTail},
		{name: "tail of the log lost", most: 5 * s, victims: anyManager, make: loseTail},
		{name: "directory copied back", most: 5 * s, victims: anyManager, make: copyBack},
	}
}

// quietFaults leave a way by which every host is heard.
func quietFaults() []fault {
	const s = time.Second
	return []fault{
		{name: "containerd killed", most: 3 * s, victims: anyOne, make: killContainerd},
		{name: "two do not reach each other", most: 15 * s, victims: anyTwo, make: part(lab.Both)},
		{name: "one does not reach another", most: 15 * s, victims: anyTwo, make: part(lab.ToB)},
		{name: "disk full", most: 15 * s, victims: anyOne, make: fill},
		{name: "disk of the leader full", most: 10 * s, victims: theLeader, make: fill},
		{name: "disk hangs", most: 10 * s, victims: anyOne, make: hang},
		{name: "disk of the leader hangs", most: 5 * s, victims: theLeader, make: hang},
		{name: "disk slow", most: 15 * s, victims: anyOne, make: slow},
		{name: "disks of all managers slow", most: 10 * s, victims: allManagers, make: slow},
	}
}

// each does something to every victim, one after the other.
func each(victims []*fleet.Member, do func(*fleet.Member) error) error {
	var all []error
	for _, v := range victims {
		all = append(all, do(v))
	}
	return errors.Join(all...)
}

// startAll is how what has no daemon any more is mended.
func startAll(victims []*fleet.Member) func(context.Context) error {
	return func(ctx context.Context) error {
		return each(victims, func(v *fleet.Member) error { return v.Start(ctx) })
	}
}

func killDaemons(_ *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return startAll(victims), each(victims, func(v *fleet.Member) error { return v.KillDaemon(ctx) })
}

func stopDaemons(_ *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return startAll(victims), each(victims, func(v *fleet.Member) error { return v.StopDaemon(ctx) })
}

func killContainerd(_ *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return nil, each(victims, func(v *fleet.Member) error { return v.KillAll(ctx, "containerd") })
}

func pullPlugs(_ *nemesis, _ context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return startAll(victims), each(victims, (*fleet.Member).Dark)
}

func pause(_ *nemesis, _ context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return func(context.Context) error {
		return each(victims, func(v *fleet.Member) error { return v.Resume() })
	}, each(victims, func(v *fleet.Member) error { return v.Pause() })
}

func heal(n *nemesis) func(context.Context) error { return n.Lab.Heal }

// isolate cuts a host off from all others: both ways, or what they send it (deaf,
// ToB), or what it sends (mute, ToA).
func isolate(way lab.Direction) func(*nemesis, context.Context, []*fleet.Member) (func(context.Context) error, error) {
	return func(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
		v := victims[0]
		return heal(n), each(n.Others(v), func(o *fleet.Member) error {
			return n.Lab.Partition(ctx, o.Host, v.Host, way)
		})
	}
}

func part(way lab.Direction) func(*nemesis, context.Context, []*fleet.Member) (func(context.Context) error, error) {
	return func(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
		return heal(n), n.Lab.Partition(ctx, victims[0].Host, victims[1].Host, way)
	}
}

// lossy loses 5 to 50 of 100 packets that the victims send or are sent.
func lossy(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	percent := 5 + n.rng.IntN(46)
	return heal(n), each(victims, func(v *fleet.Member) error {
		return each(n.Others(v), func(o *fleet.Member) error {
			return n.Lab.Loss(ctx, v.Host, o.Host, lab.Both, percent)
		})
	})
}

// fill leaves nothing, or less than a manager wants to see.
func fill(n *nemesis, _ context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	leave := []int64{0, 64 << 20}[n.rng.IntN(2)]
	return func(context.Context) error {
		return each(victims, func(v *fleet.Member) error { return v.EmptyDisk() })
	}, each(victims, func(v *fleet.Member) error { return v.FillDisk(leave) })
}

func release(victims []*fleet.Member) error {
	return each(victims, func(v *fleet.Member) error { return v.ReleaseDisk() })
}

func hang(_ *nemesis, _ context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return func(context.Context) error { return release(victims) },
		each(victims, func(v *fleet.Member) error { return v.StallDisk() })
}

// slow holds each disk up most of the time, for up to 400 ms at once.
func slow(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	seed := n.rng.Int64()
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- stutter(ctx, victims, seed) }()
	return func(context.Context) error {
		stop()
		return <-done
	}, nil
}

func stutter(ctx context.Context, victims []*fleet.Member, seed int64) (err error) {
	for n := seed & 0xffff; ctx.Err() == nil && err == nil; n = n*75 + 74 {
		err = each(victims, func(v *fleet.Member) error { return v.StallDisk() })
		rest(ctx, time.Duration(50+n%350)*time.Millisecond)
		err = errors.Join(err, release(victims))
		rest(ctx, time.Duration(20+n%100)*time.Millisecond)
	}
	return err
}

// steps are by how much a clock goes wrong: less and more than the leader's may be
// off, than certificates are dated back, and than a request is remembered.
var steps = []time.Duration{
	-49 * time.Hour, -2 * time.Hour, -20 * time.Minute, -7 * time.Second,
	2 * time.Second, time.Minute, 2 * time.Hour, 49 * time.Hour,
}

// stepClocks sets the clock of each victim's daemon wrong, each by an amount of its
// own.
func stepClocks(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	return func(ctx context.Context) error {
			return each(victims, func(v *fleet.Member) error { return v.StepClock(ctx, 0) })
		}, each(victims, func(v *fleet.Member) error {
			by := steps[n.rng.IntN(len(steps))]
			n.say("    the clock of %s goes %v off", v.Name(), by)
			return v.StepClock(ctx, by)
		})
}

// copyBack copies a manager's log, lets it go on, and puts the copy in the place
// of the log: it has to say that it must rejoin, and that has to cure it.
func copyBack(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	v := victims[0]
	if err := n.Whole(ctx, calmTime); err != nil { // else it may cost the quorum
		return nil, err
	}
	swap := func(ctx context.Context, line string) error {
		err := v.KillDaemon(ctx)
		if err == nil {
			_, err = v.Must(ctx, line)
		}
		return errors.Join(err, v.Start(ctx))
	}
	mend := func(ctx context.Context) error {
		if err := swap(ctx, "cd /var/lib/skep && rm -rf raft && mv copy raft"); err != nil {
			return err
		}
		return n.rejoin(ctx, v)
	}
	return mend, errors.Join(swap(ctx, "cp -a /var/lib/skep/raft /var/lib/skep/copy"), n.Whole(ctx, calmTime))
}

// rejoin waits for v to say that it must rejoin, and has it do so.
func (n *nemesis) rejoin(ctx context.Context, v *fleet.Member) error {
	err := fleet.Until(ctx, calmTime, func(ctx context.Context) error {
		out, err := v.Must(ctx, "ctl info")
		if err == nil && !strings.Contains(out, "it must rejoin") {
			err = fmt.Errorf("a directory that went back does not say so:\n%s", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	other := n.Managers()[0]
	if other == v {
		other = n.Managers()[1]
	}
	for _, verb := range []string{"demote", "promote"} {
		if _, err := other.Must(ctx, "ctl node "+verb+" "+v.Name()); err != nil {
			return err
		}
	}
	return nil
}
