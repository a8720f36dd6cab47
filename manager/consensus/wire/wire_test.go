package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// ledger is a machine: the list of what it was given.
type ledger struct {
	mu    sync.Mutex
	Lines []string
}

func (l *ledger) Apply(_ uint64, _ int64, txs [][]byte) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tx := range txs {
		l.Lines = append(l.Lines, string(tx))
	}
	return nil
}

func (l *ledger) Encode() func(io.Writer) error {
	lines := l.lines()
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(lines) }
}

func (l *ledger) Restore(r io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Lines = nil
	return json.NewDecoder(r).Decode(&l.Lines)
}

func (l *ledger) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.Lines)
}

// member is one manager on loopback.
type member struct {
	id      uint64
	addr    string
	machine *ledger
	runner  *consensus.Runner
	server  *grpc.Server
	link    *link
	stop    context.CancelFunc
	done    chan error
}

// link is a transport that can be cut, as by a dying process.
type link struct {
	*Transport
	cut chan struct{}
}

func (l *link) Run(ctx context.Context, h consensus.Handler) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-l.cut:
			stop()
		case <-inner.Done():
		}
	}()
	err := l.Transport.Run(inner, h)
	<-ctx.Done()
	return err
}

type cluster struct {
	t                *testing.T
	cluster, history id.ID
	ring             *sealed.Ring
	log              *slog.Logger
}

func newCluster(t *testing.T) *cluster {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("SKEP_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return &cluster{t: t, cluster: id.New(), history: id.New(), ring: sealed.NewRing(), log: log}
}

func (c *cluster) start(bootstrap bool) *member {
	c.t.Helper()
	m := &member{id: consensus.NewRaftID(), machine: &ledger{}, done: make(chan error, 1)}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	m.addr = lis.Addr().String()
	m.link = &link{cut: make(chan struct{}), Transport: New(Config{
		RaftID: m.id,
		Hello: func() *rpcv1.Hello {
			return &rpcv1.Hello{Version: "test", Cluster: c.cluster.Bytes(), History: c.history.Bytes()}
		},
		Dial: func(_ context.Context, _ uint64, addr string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		Log: c.log.With("member", m.id%1000),
	})}
	cfg := consensus.Config{
		Dir: c.t.TempDir(), RaftID: m.id, Cluster: c.cluster, History: c.history, Node: id.New(), Ring: c.ring,
		Machine: m.machine, Transport: m.link, Snapshots: func() consensus.Snapshots { return consensus.Snapshots{Interval: 50} }, Margin: 5, Log: c.log.With("member", m.id%1000),
	}
	make := consensus.JoinDir
	if bootstrap {
		make = func(cfg consensus.Config) error { return consensus.Bootstrap(cfg, nil) }
	}
	if err := make(cfg); err != nil {
		c.t.Fatal(err)
	}
	if m.runner, err = consensus.Open(cfg); err != nil {
		c.t.Fatal(err)
	}
	m.server = grpc.NewServer()
	raftv1.RegisterRaftServer(m.server, m.link.Server())
	go func() { _ = m.server.Serve(lis) }()
	var ctx context.Context
	ctx, m.stop = context.WithCancel(c.t.Context())
	go func() { m.done <- m.runner.Run(ctx) }()
	c.t.Cleanup(func() {
		m.stop()
		<-m.done
		m.server.Stop()
	})
	return m
}

// until waits for ok of m's status.
func (c *cluster) until(m *member, what string, ok func(consensus.Status) bool) {
	c.t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		changed := m.runner.Changed()
		if ok(m.runner.Status()) {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // progress does not wake
		case <-deadline:
			c.t.Fatalf("%s did not come: %+v", what, m.runner.Status())
		}
	}
}

func (c *cluster) propose(m *member, line string) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer stop()
	if _, err := m.runner.Propose(ctx, []byte(line)); err != nil {
		c.t.Fatalf("propose %q: %v", line, err)
	}
}

// join makes joiner a voter of leader's group.
func (c *cluster) join(leader, joiner *member, others ...*member) {
	c.t.Helper()
	for _, o := range append(others, leader) {
		joiner.runner.SetPeer(o.id, o.addr)
		o.runner.SetPeer(joiner.id, joiner.addr)
	}
	ctx, stop := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer stop()
	add := consensus.Change{Kind: consensus.AddLearner, RaftID: joiner.id, Address: joiner.addr}
	if err := leader.runner.ChangeMembership(ctx, add, []byte("add")); err != nil {
		c.t.Fatal(err)
	}
	for {
		err := leader.runner.ChangeMembership(ctx, consensus.Change{Kind: consensus.Promote, RaftID: joiner.id}, []byte("promote"))
		if err == nil {
			break
		}
		if !errors.Is(err, consensus.ErrRefused) || ctx.Err() != nil {
			c.t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond) // it must be heard for two seconds first
	}
}

func TestThreeMembersOutliveTheirLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.start(true)
	c.until(a, "a leader", func(s consensus.Status) bool { return s.Tenured })
	for i := range 120 { // past two snapshots
		c.propose(a, fmt.Sprint("before ", i))
	}
	b := c.start(false)
	c.join(a, b)
	d := c.start(false)
	c.join(a, d, b)
	for i := range 100 {
		c.propose(a, fmt.Sprint("three ", i))
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if _, err := b.runner.ReadIndex(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := b.machine.lines(), a.machine.lines(); !slices.Equal(got, want) {
		t.Fatalf("after a linearizable read the follower holds %d lines, the leader %d", len(got), len(want))
	}
	c.until(b, "contact", func(s consensus.Status) bool { return s.InContact && s.Leader == a.id })

	// The leader's process dies: its streams break and its address refuses.
	at := time.Now()
	a.server.Stop()
	close(a.link.cut)
	next := b
	for next.runner.Status().Leader == a.id || !next.runner.Status().Tenured {
		<-time.After(time.Millisecond)
		if next = b; d.runner.Status().Tenured {
			next = d
		}
		if time.Since(at) > 10*time.Second {
			t.Fatalf("no new leader: %+v %+v", b.runner.Status(), d.runner.Status())
		}
	}
	c.propose(next, "after")
	t.Logf("a write succeeded %v after the leader died", time.Since(at))

	// Leadership moves on when its holder stops.
	other := b
	if next == b {
		other = d
	}
	if err := next.runner.TransferLeadership(ctx, ""); err != nil {
		t.Fatal(err)
	}
	c.until(other, "the other leader", func(s consensus.Status) bool { return s.Tenured })
	c.propose(other, "moved")
	if _, err := next.runner.Propose(ctx, []byte("x")); !errors.As(err, new(consensus.ErrNotLeader)) {
		t.Errorf("a follower's proposal: %v, want ErrNotLeader", err)
	}
	if err := other.runner.ChangeMembership(ctx, consensus.Change{Kind: consensus.Remove, RaftID: next.id}, []byte("rm")); !errors.Is(err, consensus.ErrWouldLoseQuorum) {
		t.Errorf("removing one of two live voters of three: %v, want ErrWouldLoseQuorum", err)
	}
	if err := other.runner.ChangeMembership(ctx, consensus.Change{Kind: consensus.Remove, RaftID: a.id}, []byte("rm")); err != nil {
		t.Error(err)
	}
}
