package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

const (
	// clients is how many ask at once.
	clients = 64
	// askFor is for how long they do.
	askFor = 3 * time.Second
)

// api has clients create services without tasks, spread over the managers.
func api(ctx context.Context, s *stage) error {
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	n, took, err := during(ctx, func(ctx context.Context, client, i int) error {
		p := s.swarm.managers[client%len(s.swarm.managers)]
		sub := &stage{scenario: s.scenario, swarm: &swarm{managers: []*process{p}}}
		_, err := sub.create(ctx, fmt.Sprintf("api-%d-%d", client, i), 0)
		return err
	})
	if err != nil {
		return err
	}
	s.note("services created", "1/s", rate, float64(n)/took.Seconds())
	return s.used(before, n, "service")
}

// during has all clients make calls without a pause, and counts those made.
func during(ctx context.Context, call func(ctx context.Context, client, i int) error) (int, time.Duration, error) {
	g, ctx := errgroup.WithContext(ctx)
	var n atomic.Int64
	began := time.Now()
	for c := range clients {
		g.Go(func() error {
			for i := 0; time.Since(began) < askFor; i++ {
				if err := call(ctx, c, i); err != nil {
					return err
				}
				n.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return int(n.Load()), time.Since(began), err
}

// joining has the agents join and open their sessions.
func joining(ctx context.Context, s *stage) error {
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.man(ctx); err != nil {
		return err
	}
	s.note("all ready", "s", cpu, time.Since(began).Seconds())
	return s.used(before, s.agents, "join")
}

// renewing has clients renew the certificates of all members, each once.
func renewing(ctx context.Context, s *stage) error {
	conns := make([]*grpc.ClientConn, len(s.fleet.members))
	csrs := make([][]byte, len(conns))
	for i, m := range s.fleet.members {
		cc, err := m.connect(ctx, m.managers.GetManagers()[0])
		if err != nil {
			return err
		}
		defer cc.Close()
		conns[i] = cc
		if err := cc.Invoke(ctx, "/skep.control.v1.Control/GetCluster", &controlv1.GetClusterRequest{}, &controlv1.GetClusterResponse{}); err == nil {
			return fmt.Errorf("agent %d may read the cluster", i)
		} // but its connection stands now
		key, err := ca.NewKey()
		if err != nil {
			return err
		}
		if csrs[i], err = ca.NewCSR(key); err != nil {
			return err
		}
	}
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(clients)
	began := time.Now()
	for i, cc := range conns {
		g.Go(func() error {
			_, err := cav1.NewAuthorityClient(cc).Renew(ctx, &cav1.RenewRequest{Csr: csrs[i]})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.note("certificates renewed", "1/s", rate, float64(len(conns))/time.Since(began).Seconds())
	return s.used(before, len(conns), "certificate")
}

// idleFor is for how long an idle swarm is looked at.
const idleFor = 20 * time.Second

// idle sets the heartbeat to 5 s and looks at a manager whose agents only beat.
func idle(ctx context.Context, s *stage) error {
	resp, err := s.swarm.control().GetCluster(ctx, &controlv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	spec := resp.GetCluster().GetSpec()
	spec.HeartbeatPeriod = int64(5 * time.Second)
	if _, err := s.swarm.control().UpdateCluster(ctx, &controlv1.UpdateClusterRequest{
		RequestId: conn.RequestID(), Version: resp.GetCluster().GetMeta().GetVersion(), Spec: spec,
	}); err != nil {
		return err
	}
	// The agents learn the period with their next session.
	s.fleet.end()
	alone, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	bare, err := s.swarm.usages()
	if err != nil {
		return err
	}
	if err := s.fleet.begin(ctx, s.kind, s.dir); err != nil {
		return err
	}
	if err := ready(ctx, s.swarm, s.agents); err != nil {
		return err
	}
	wait(ctx, 5*time.Second)
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	wait(ctx, idleFor)
	u, err := s.swarm.since(before)
	if err != nil {
		return err
	}
	with, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	s.note("manager's core", "%", cpu, 100*u.cpu.Seconds()/idleFor.Seconds())
	s.note("RSS an agent", "KiB", plain, (float64(u.rss)-float64(bare[0].rss))/1024/float64(s.agents))
	s.note("heap and stacks an agent", "KiB", plain,
		(float64(with.LiveBytes+with.Stacks)-float64(alone.LiveBytes+alone.Stacks))/1024/float64(s.agents))
	s.note("goroutines an agent", "", plain, float64(with.Routines-alone.Routines)/float64(s.agents))
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// failovers is how often the leader is killed in one run.
const failovers = 7

// failover kills the leader's process and writes through a survivor, again and
// again; the killed one is started anew.
func failover(ctx context.Context, s *stage) error {
	var worst time.Duration
	for i := range failovers {
		took, err := s.killLeader(ctx, i)
		if err != nil {
			return err
		}
		worst = max(worst, took)
		s.note("next write", "s", plain, took.Seconds())
	}
	s.note("worst next write", "s", plain, worst.Seconds())
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
	sub := &stage{scenario: s.scenario, swarm: &swarm{managers: []*process{through}}}
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
	if err := ready(ctx, sub.swarm, s.agents); err != nil {
		return 0, err
	}
	s.note("agents ready again", "s", plain, time.Since(began).Seconds())
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
