package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skep-project/skep/integration/fleet"
)

// A nemesis torments the fleet, one fault after the other. What it does next is
// drawn from its seed and from nothing else; who leads at that moment, and what
// the machine does meanwhile, is not.
type nemesis struct {
	*fleet.Fleet
	record *recorder
	rng    *rand.Rand
	say    func(format string, args ...any)
	// calm waits until everything is as it must be with no fault about.
	calm func(context.Context) error
	done map[string]int // how often each fault was made
}

// A fault is one thing that goes wrong with hosts. make returns how it is mended.
type fault struct {
	name string
	// most bounds how long it lasts.
	most time.Duration
	// victims draws the hosts that feel it.
	victims func(*nemesis, context.Context) []*fleet.Member
	make    func(*nemesis, context.Context, []*fleet.Member) (mend func(context.Context) error, err error)
	// heard: the swarm goes on hearing the victims, so their tasks stay where they
	// are.
	heard bool
}

// run makes faults until ctx ends; the last one is mended.
func (n *nemesis) run(ctx context.Context, faults []fault) error {
	d := deck{faults: faults}
	for ctx.Err() == nil {
		f := d.draw(n.rng)
		lasts := time.Second + time.Duration(n.rng.Int64N(int64(f.most)))
		calm := n.rng.IntN(2) == 0
		if err := n.torment(ctx, f, lasts); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if !calm {
			continue
		}
		if err := n.calm(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("after %s: %w", f.name, err)
		}
	}
	return nil
}

// A deck is faults in an order that is drawn anew whenever all have come: each
// comes once before any comes again, so a run of a known length has met them all.
type deck struct {
	faults []fault
	left   []int // of faults, those to come
}

func (d *deck) draw(rng *rand.Rand) fault {
	if len(d.left) == 0 {
		d.left = rng.Perm(len(d.faults))
	}
	next := d.left[0]
	d.left = d.left[1:]
	return d.faults[next]
}

// torment makes one fault, lets it last, and mends it.
func (n *nemesis) torment(ctx context.Context, f fault, lasts time.Duration) error {
	victims := f.victims(n, ctx)
	names := ""
	for _, v := range victims {
		names += " " + v.Name()
	}
	n.say("%s:%s, for %v", f.name, names, lasts.Round(100*time.Millisecond))
	n.done[f.name]++
	from := n.record.now()
	whole := context.WithoutCancel(ctx) // what is begun is mended, whatever the time
	mend, err := f.make(n, whole, victims)
	if err == nil {
		rest(ctx, lasts)
	}
	if mend != nil {
		err = errors.Join(err, mend(whole))
	}
	for _, v := range victims {
		n.record.put(line{Touch: &touch{Host: v.Name(), Fault: f.name, Heard: f.heard, From: from, To: n.record.now()}})
	}
	return err
}

// Who feels a fault.

func anyOne(n *nemesis, _ context.Context) []*fleet.Member {
	return []*fleet.Member{n.Members[n.rng.IntN(len(n.Members))]}
}

func anyManager(n *nemesis, _ context.Context) []*fleet.Member {
	all := n.Managers()
	return []*fleet.Member{all[n.rng.IntN(len(all))]}
}

// theLeader falls back to the first manager when there is no leader. It draws
// as often as the others do.
func theLeader(n *nemesis, ctx context.Context) []*fleet.Member {
	drawn := anyManager(n, ctx)
	if m, err := n.Leader(ctx); err == nil {
		return []*fleet.Member{m}
	}
	return drawn
}

func anyTwo(n *nemesis, _ context.Context) []*fleet.Member {
	order := n.rng.Perm(len(n.Members))
	return []*fleet.Member{n.Members[order[0]], n.Members[order[1]]}
}

func everyone(n *nemesis, _ context.Context) []*fleet.Member { return n.Members }

func allManagers(n *nemesis, _ context.Context) []*fleet.Member { return n.Managers() }
