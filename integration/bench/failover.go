package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/skep-project/skep/cli/conn"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// failover kills the leader's process and writes through a survivor, again and
// again; the killed one is started anew.
func failover(ctx context.Context, s *stage) error {
	for i := range s.pace.trials {
		took, err := s.killLeader(ctx, i)
		if err != nil {
			return fmt.Errorf("trial %d: %w", i+1, err)
		}
		s.note("next write", "s", plain, took.Seconds())
		progress("  trial %d: a write after %v", i+1, took.Round(time.Millisecond))
	}
	return nil
}

// killLeader kills the leader and returns how long it took until a survivor had
// a write committed.
func (s *stage) killLeader(ctx context.Context, trial int) (time.Duration, error) {
	lead, err := s.leader(ctx)
	if err != nil {
		return 0, err
	}
	killed := s.swarm.managers[lead]
	through := s.swarm.managers[(lead+1)%len(s.swarm.managers)]
	began := time.Now()
	if err := killed.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return 0, err
	}
	survivor := &swarm{managers: []*process{through}}
	id := conn.RequestID()
	took := time.Duration(0)
	err = eventually(ctx, "a write", func(ctx context.Context) (bool, error) {
		_, err := controlv1.NewControlClient(through.conn).CreateService(ctx, &controlv1.CreateServiceRequest{
			RequestId: id, Spec: spec(fmt.Sprintf("failover-%d", trial), 0), Template: template(""),
		})
		took = time.Since(began)
		return err == nil, nil
	})
	if err != nil {
		return 0, err
	}
	if err := ready(ctx, survivor, s.agents); err != nil {
		return 0, err
	}
	s.note("agents ready again", "s", plain, time.Since(began).Seconds())
	if err := s.fleet.counted(ctx, began.Add(took)); err != nil {
		return 0, err
	}
	s.note("agents counted again", "s", plain, time.Since(began).Seconds())
	_ = killed.cmd.Wait() // it was killed
	if err := s.swarm.run(ctx, killed); err != nil {
		return 0, err
	}
	return took, s.swarm.settled(ctx)
}

// leader returns the number of the manager that leads.
func (s *stage) leader(ctx context.Context) (int, error) {
	at := -1
	err := eventually(ctx, "a leader", func(ctx context.Context) (bool, error) {
		resp, err := s.swarm.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
		for _, n := range resp.GetNodes() {
			for i, p := range s.swarm.managers {
				if n.GetManager().GetLeader() && n.GetManager().GetAddress() == p.address {
					at = i
				}
			}
		}
		return err == nil && at >= 0, nil
	})
	return at, err
}
