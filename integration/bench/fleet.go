package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/agent/session"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/version"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// joiners is how many agents join at once.
const joiners = 64

// A member is one simulated node: what it joined with, and its address on the
// loopback, so that managers see as many hosts as there are.
type member struct {
	number   int
	holder   *ca.Holder
	managers *cav1.ManagerList
	// heard is when a manager last said that the leader has counted a beat, in
	// Unix nanoseconds.
	heard atomic.Int64
	beats beats
}

// A fleet is agents in this process.
type fleet struct {
	members []*member
	stop    context.CancelFunc
	running sync.WaitGroup
}

// enlist has n members join by the token.
func enlist(ctx context.Context, s *swarm, n int) (*fleet, error) {
	token, err := s.joinToken(ctx)
	if err != nil {
		return nil, err
	}
	f := &fleet{members: make([]*member, n)}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(joiners)
	for i := range n {
		g.Go(func() (err error) {
			f.members[i], err = join(ctx, s, token, i)
			return err
		})
	}
	return f, g.Wait()
}

// join has one member join; one that is told to wait, because so many joined
// just before, waits.
func join(ctx context.Context, s *swarm, token ca.Token, number int) (*member, error) {
	m := &member{number: number, holder: &ca.Holder{}}
	key, err := ca.NewKey()
	if err != nil {
		return nil, err
	}
	all := s.addresses()
	for {
		r, err := client.Enroll(ctx, client.Join{
			Token: token, Key: key, Remotes: []string{all[number%len(all)]}, Hostname: fmt.Sprintf("agent%d", number), Dial: m.dial,
		})
		if err == nil {
			m.holder.Set(r.Credential)
			m.managers = r.Managers
			return m, nil
		}
		if !patient(err) {
			return nil, fmt.Errorf("agent %d: %w", number, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("agent %d: %w", number, err)
		case <-time.After(time.Second):
		}
	}
}

// dial connects from the member's own address.
func (m *member) dial(ctx context.Context, address string) (net.Conn, error) {
	n := m.number + 1
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+n>>16), byte(n>>8), byte(n))}}
	return d.DialContext(ctx, "tcp", address)
}

// connect is the way of an agent to a manager of its list.
func (m *member) connect(_ context.Context, to *cav1.Manager) (*grpc.ClientConn, error) {
	node, err := id.FromBytes(to.GetNode())
	if err != nil {
		return nil, err
	}
	return rpc.Dial(to.GetAddress(), rpc.ClientTLS(m.holder, rpc.Peer{Node: node}), append(rpc.Through(m.dial), rpc.Patiently(), grpc.WithStreamInterceptor(m.overhear))...)
}

// overhear notes when a beat was counted.
func (m *member) overhear(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	return overheard{stream, m}, err
}

// overheard is an agent's stream to a manager.
type overheard struct {
	grpc.ClientStream
	member *member
}

// RecvMsg passes a message on.
func (o overheard) RecvMsg(msg any) error {
	err := o.ClientStream.RecvMsg(msg)
	if resp, ok := msg.(*dispatchv1.SessionResponse); ok && err == nil && resp.GetBeat() != 0 {
		o.member.heard.Store(time.Now().UnixNano())
		o.member.beats.counted(resp.GetBeat())
	}
	return err
}

// SendMsg passes a message on.
func (o overheard) SendMsg(msg any) error {
	if req, ok := msg.(*dispatchv1.SessionRequest); ok {
		o.member.beats.sent(req)
	}
	return o.ClientStream.SendMsg(msg)
}

func (m *member) node() id.ID { return m.holder.Get().Identity.Node }

// hello is what a member says first. Each is a machine of its own.
func (m *member) hello() *rpcv1.Hello {
	return &rpcv1.Hello{
		Version: version.Version, FeatureLevel: version.FeatureLevel,
		Cluster: m.holder.Get().Identity.Cluster.Bytes(), Node: m.node().Bytes(),
		Boot: m.node().Bytes(), Incarnation: id.New().Bytes(),
	}
}

func (m *member) description() *modelv1.NodeDescription {
	return &modelv1.NodeDescription{
		Hostname: fmt.Sprintf("agent%d", m.number), Os: "linux", Architecture: "amd64", Version: version.Version,
		Resources: &modelv1.Resources{NanoCpus: 64e9, MemoryBytes: 256 << 30},
	}
}

// begin starts the agents of all members, light or real.
func (f *fleet) begin(ctx context.Context, kind, dir string) error {
	ctx, f.stop = context.WithCancel(ctx)
	for _, m := range f.members {
		run, err := m.light()
		if kind == realAgents {
			run, err = m.real(dir)
		}
		if err != nil {
			return fmt.Errorf("agent %d: %w", m.number, err)
		}
		f.running.Go(func() { _ = run(ctx) }) // an agent that ends is missed by the scenario
	}
	return nil
}

// end stops the agents.
func (f *fleet) end() {
	if f.stop != nil {
		f.stop()
		f.running.Wait()
	}
}

// counted waits until every agent was told, after a time, that the leader counts
// its beats: a record that says Ready may only be one that nobody has corrected.
func (f *fleet) counted(ctx context.Context, after time.Time) error {
	return eventually(ctx, "the leader to count every agent", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(f.members, func(m *member) bool { return m.heard.Load() <= after.UnixNano() }), nil
	})
}

// light is an agent that speaks the whole session protocol and does no work.
func (m *member) light() (func(context.Context) error, error) {
	w := &light{managers: m.managers, known: map[id.ID]modelv1.TaskState{}}
	c, err := session.New(session.Config{Worker: w, Dial: m.connect, Hello: m.hello(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	w.report = c.Report
	c.Describe(m.description())
	return c.Run, nil
}

// real is the whole agent over a runtime that does everything at once.
func (m *member) real(dir string) (func(context.Context) error, error) {
	who := m.holder.Get().Identity
	a, err := agent.New(agent.Config{
		Cluster: who.Cluster, Node: who.Node, Runtime: exectest.NewHost().Runtime(who.Cluster, who.Node),
		StateDir: filepath.Join(dir, fmt.Sprintf("a%d", m.number)), KEK: sealed.NewSecret(make([]byte, 32)),
		Dial: m.connect, Managers: m.managers, Hello: m.hello(), Description: m.description(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return a.Run, nil
}

// ready waits until n agents are, as the API says. An election meanwhile is
// waited for as a user would.
func ready(ctx context.Context, s *swarm, n int) error {
	for began := time.Now(); ; {
		asked := time.Now()
		resp, err := s.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
		if err != nil && !passes(err) {
			return err
		}
		have := 0
		for _, v := range resp.GetNodes() {
			if v.GetManager() == nil && v.GetNode().GetStatus().GetState() == modelv1.NodeState_NODE_STATE_READY {
				have++
			}
		}
		if have >= n {
			return nil
		}
		if time.Since(began) > 2*time.Minute {
			return errors.Join(fmt.Errorf("%d of %d agents are ready after two minutes", have, n), err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("%d of %d agents are ready", have, n))
		case <-time.After(rest(began, asked)):
		}
	}
}

// passes reports whether a question that failed is to be asked again: there is
// no leader just now.
func passes(err error) bool { return errdefs.IsUnavailable(err) }
