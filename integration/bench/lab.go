package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	fleets "github.com/skep-project/skep/integration/fleet"
	"github.com/skep-project/skep/integration/loss"
)

// hosts is the ground of what is done to whole hosts: daemons on hosts of
// namespaces, with a container runtime each.
func hosts(ctx context.Context, s scenario, o options, b *book) (*stage, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lab hosts need root")
	}
	f, err := fleets.Raise(ctx, fleets.Config{Ctl: o.ctl, Managers: s.managers, Workers: s.agents})
	if err != nil {
		return nil, err
	}
	return &stage{scenario: s, hosts: f, book: b, ending: []func() error{f.Close}}, nil
}

// replicas is the ground of what is measured below the API: a group of replicas
// of the store.
func replicas(ctx context.Context, s scenario, o options, b *book) (*stage, error) {
	g, err := gather(ctx, o, s)
	if err != nil {
		return nil, err
	}
	return &stage{scenario: s, group: g, book: b, ending: []func() error{g.close}}, nil
}

// dark pulls the plugs of hosts.
func dark(ctx context.Context, s *stage) error {
	if err := loss.Prepare(ctx, s.hosts); err != nil {
		return errors.Join(err, errors.New(s.hosts.Logs(4<<10)))
	}
	for _, x := range []struct {
		loss   loss.Loss
		metric string
		trials int
	}{
		{loss.LeaderDark, "leader dark: next write", s.pace.trials},
		{loss.HostGoes, "host goes down: replaced", s.pace.hosts},
		{loss.HostDark, "host dark: replaced", s.pace.hosts},
	} {
		for i := range x.trials {
			took, err := x.loss.Try(ctx, s.hosts)
			if err != nil {
				return fmt.Errorf("trial %d: %w\n%s", i+1, err, s.hosts.Logs(4<<10))
			}
			progress("  %s, trial %d: %v", x.metric, i+1, took.Round(time.Millisecond))
			s.note(x.metric, "s", plain, took.Seconds())
		}
	}
	return nil
}
