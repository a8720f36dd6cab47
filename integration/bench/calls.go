package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// clients is how many ask at once.
const clients = 64

// api has clients create services without tasks, spread over the managers.
func api(ctx context.Context, s *stage) error {
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	n, took, err := during(ctx, clients, s.pace.ask, func(ctx context.Context, client, i int) error {
		p := s.swarm.managers[client%len(s.swarm.managers)]
		_, err := createAt(ctx, controlv1.NewControlClient(p.conn), fmt.Sprintf("api-%d-%d", client, i), 0)
		return err
	})
	if err != nil {
		return err
	}
	s.note("services created", perSecond, rate, float64(n)/took.Seconds())
	return s.used(before, n, "service")
}

// during has so many clients make calls without a pause, and counts those made.
func during(ctx context.Context, clients int, period time.Duration, call func(ctx context.Context, client, i int) error) (int, time.Duration, error) {
	g, ctx := errgroup.WithContext(ctx)
	var n atomic.Int64
	began := time.Now()
	for c := range clients {
		g.Go(func() error {
			for i := 0; time.Since(began) < period; i++ {
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

// A renewer is a member about to renew its certificate.
type renewer struct {
	conn *grpc.ClientConn
	csr  []byte
}

// renewing has clients renew the certificates of all members, each once.
func renewing(ctx context.Context, s *stage) (err error) {
	if s.fleet, err = enlist(ctx, s.swarm, s.agents); err != nil {
		return err
	}
	all := make([]renewer, s.agents)
	defer func() {
		for _, r := range all {
			if r.conn != nil {
				err = errors.Join(err, r.conn.Close())
			}
		}
	}()
	connects, cctx := errgroup.WithContext(ctx)
	connects.SetLimit(clients)
	for i, m := range s.fleet.members {
		connects.Go(func() (err error) {
			all[i], err = m.renewer(cctx)
			return err
		})
	}
	if err := connects.Wait(); err != nil {
		return err
	}
	return s.renew(ctx, all)
}

// renewer connects a member and makes its request.
func (m *member) renewer(ctx context.Context) (r renewer, err error) {
	if r.conn, err = m.connect(ctx, m.managers.GetManagers()[0]); err != nil {
		return r, err
	}
	q := &controlv1.GetClusterRequest{}
	if err := r.conn.Invoke(ctx, "/skep.control.v1.Control/GetCluster", q, &controlv1.GetClusterResponse{}); err == nil {
		return r, fmt.Errorf("agent %d may read the cluster", m.number)
	} // but its connection stands now
	key, err := ca.NewKey()
	if err != nil {
		return r, err
	}
	r.csr, err = ca.NewCSR(key)
	return r, err
}

// renew has so many clients at once renew.
func (s *stage) renew(ctx context.Context, all []renewer) error {
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(clients)
	began := time.Now()
	for _, r := range all {
		g.Go(func() error {
			_, err := cav1.NewAuthorityClient(r.conn).Renew(ctx, &cav1.RenewRequest{Csr: r.csr})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.note("certificates renewed", perSecond, rate, float64(len(all))/time.Since(began).Seconds())
	return s.used(before, len(all), "certificate")
}

// idle sets the heartbeat to 5 s and looks at a manager whose agents only beat.
func idle(ctx context.Context, s *stage) error {
	resp, err := s.swarm.control().GetCluster(ctx, &controlv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	spec := resp.GetCluster().GetSpec()
	spec.HeartbeatPeriod, spec.Lease = int64(idlePulse), int64(3*idlePulse) // a lease is three beats at least
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
	u, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	with, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	s.note("manager's core", "%", cpu, core(u.cpu, s.pace.idle))
	s.note("RSS an agent", "KiB", plain, (float64(u.rss)-float64(bare[0].rss))/1024/float64(s.agents))
	s.note("heap and stacks an agent", "KiB", plain,
		(float64(with.LiveBytes+with.Stacks)-float64(alone.LiveBytes+alone.Stacks))/1024/float64(s.agents))
	s.note("goroutines an agent", "", plain, float64(with.Routines-alone.Routines)/float64(s.agents))
	return s.floor(ctx)
}

// idlePulse is how often the agents of an idle swarm beat, and idleTurn how long their
// beats wait for each other then.
const (
	idlePulse = 5 * time.Second
	idleTurn  = 250 * time.Millisecond
)

// core is the share of a processor, in percent.
func core(used, during time.Duration) float64 { return 100 * used.Seconds() / during.Seconds() }

// quiet is what the managers use while nothing is asked of them.
func (s *stage) quiet(ctx context.Context) (usage, error) {
	wait(ctx, s.pace.settle)
	before, err := s.swarm.mark()
	if err != nil {
		return usage{}, err
	}
	wait(ctx, s.pace.idle)
	return s.swarm.since(before)
}

// deserted reports whether no agent is there, and everybody knows.
func (s *stage) deserted(ctx context.Context) (bool, error) {
	resp, err := s.swarm.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
	return !slices.ContainsFunc(resp.GetNodes(), func(v *controlv1.NodeView) bool {
		return v.GetManager() == nil && v.GetNode().GetStatus().GetState() != modelv1.NodeState_NODE_STATE_DOWN
	}), err
}

// floor is what an idle swarm's figure is made of, at the same hour: a manager to which
// nobody is connected, and bytes that go back and forth as beats do.
func (s *stage) floor(ctx context.Context) error {
	s.fleet.end()
	if s.pace.settle > 0 { // else it is only seen whether this runs
		if err := eventually(ctx, "every agent to be down", s.deserted); err != nil {
			return err
		}
	}
	u, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	s.note("core of a manager alone", "%", cpu, core(u.cpu, s.pace.idle))
	bare, err := bareEcho(ctx, s.agents, idlePulse, idleTurn, s.pace.idle)
	s.note("core of a bare TLS echo of as many beats", "%", cpu, core(bare, s.pace.idle))
	return err
}

// wait waits for d; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
