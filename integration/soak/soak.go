package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/integration/fleet"
)

// diskBytes is the size of each host's disk: two of the log's files of 64 MiB,
// containerd's images, and what a manager wants to see free.
const diskBytes = 1 << 30

// soak torments a fleet and returns what was recorded, whatever went wrong.
func soak(ctx context.Context, c config) (h history, err error) {
	f, err := fleet.Raise(ctx, fleet.Config{Ctl: c.ctl, Managers: c.managers, Workers: c.workers, DiskBytes: diskBytes})
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, keepLogs(f, c.dir, err), f.Close()) }()
	for name, replicas := range wanted {
		how := fmt.Sprintf("--replicas %d", replicas)
		if replicas == 0 {
			how = "--mode global"
		}
		if err := f.Create(ctx, name, how); err != nil {
			return h, err
		}
	}
	r, err := record(filepath.Join(c.dir, "history.jsonl"))
	if err != nil {
		return h, err
	}
	err = torture(ctx, c, f, r)
	h, closed := r.close()
	return h, errors.Join(err, closed, clean(f))
}

// torture runs clients, watcher and nemesis, and reads every register once more
// when all is over.
func torture(ctx context.Context, c config, f *fleet.Fleet, r *recorder) error {
	people := &clients{fleet: f, record: r}
	var all sync.WaitGroup
	run, stop := context.WithCancel(ctx)
	all.Go(func() { people.run(run, 2*c.managers, c.seed) })
	all.Go(func() { (&watcher{fleet: f, record: r}).run(run) })
	began := time.Now()
	n := &nemesis{
		Fleet: f, record: r, rng: rand.New(rand.NewPCG(c.seed, 0)), done: map[string]int{},
		calm: func(ctx context.Context) error { return whole(ctx, f) },
		say: func(format string, args ...any) {
			fmt.Printf("%8v  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, args...))
		},
	}
	span, end := context.WithTimeout(ctx, c.span)
	faults := some(allFaults(), c.only)
	err := n.run(span, faults)
	end()
	if err == nil && ctx.Err() == nil {
		err = n.calm(ctx)
	}
	if err == nil {
		err = people.last(ctx)
	}
	stop()
	all.Wait()
	n.tell(faults)
	return err
}

// some are the faults with a word in their name.
func some(faults []fault, word string) []fault {
	return slices.DeleteFunc(faults, func(f fault) bool { return !strings.Contains(f.name, word) })
}

// tell says what was done, and what there was no time for.
func (n *nemesis) tell(faults []fault) {
	for _, f := range faults {
		n.say("%3d × %s", n.done[f.name], f.name)
	}
}

// last reads the registers in use at every manager: what was acknowledged is
// there.
func (c *clients) last(ctx context.Context) error {
	for i, m := range c.fleet.Managers() {
		one := &client{clients: c, number: 1000 + i, conns: map[*fleet.Member]*grpc.ClientConn{}}
		for n := range keysPerEpoch {
			for epoch := c.epoch(); epoch >= max(0, c.epoch()-1); epoch-- {
				node, label := c.key(n, epoch)
				o, ok := one.read(ctx, m, node, label)
				if !ok {
					return fmt.Errorf("the last read of %s at %s was not answered", o.Key, m.Name())
				}
				c.record.put(line{Op: &o})
			}
		}
		one.hangUp()
	}
	return nil
}

// keepLogs writes what the daemons said beside the history of a soak that failed.
func keepLogs(f *fleet.Fleet, dir string, failed error) error {
	if failed == nil {
		return nil
	}
	var all []error
	for _, m := range f.Members {
		all = append(all, os.WriteFile(filepath.Join(dir, m.Name()+".log"), []byte(m.LogTail(8<<20)), 0o644))
	}
	return errors.Join(all...)
}
