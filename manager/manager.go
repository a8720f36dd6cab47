// Package manager assembles the manager side of a node: it opens, connects,
// starts and waits, and decides nothing (those who do are in its rooms).
//
// One Manager is one membership of the raft group: a node that is demoted and
// promoted again gets another. Its services are mounted on the node's server
// while it runs and taken off when it ends.
package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/control/events"
	"github.com/skep-project/skep/manager/dispatch"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/membership"
	"github.com/skep-project/skep/manager/rekey"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/tally"
	"github.com/skep-project/skep/manager/witness"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// Config configures a Manager. Every field but Peers and Dial is required.
type Config struct {
	// Dir holds the directory of log and snapshots.
	Dir string
	// Node and Cluster are this node's ids. The member's own is the directory's.
	Node, Cluster id.ID
	// Credential is the node's own.
	Credential *ca.Holder
	// Ring is the cluster's data keys (D9).
	Ring *sealed.Ring
	// Vault is where the node's own keys and the ring lie.
	Vault rekey.Vault
	// Server is the node's; services are mounted on it while the manager runs.
	Server *rpc.Server
	// Hello is what this node says of itself first; cluster and history are
	// filled in.
	Hello *rpcv1.Hello
	// Address is where this member is reached; its record is kept at it (D11).
	Address string
	// Peers is the group as the join told it, until records tell better.
	Peers []Peer
	// Dial makes connections to other managers. Nil means the net package's.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Log receives records.
	Log *slog.Logger
}

// A Peer is another member.
type Peer struct {
	RaftID  uint64
	Node    id.ID
	Address string
}

// A Manager is one membership of the group.
type Manager struct {
	cfg       Config
	store     *store.Store
	db        *store.DB
	raft      *consensus.Runner
	transport *transport
	links     *links
	over      chan struct{} // closed when consensus runs no more: nobody is heard then
	chronicle *events.Chronicle
	rooms     rooms
	keys      *rekey.Keeper
	outside   *external.Client
	witness   *witness.Gatherer
	silence   silence
	missing   missing
	reign     reign
	tally     tally.Tally
}

// Open opens the log of this member. Run starts it.
func Open(cfg Config) (*Manager, error) {
	m := &Manager{
		cfg: cfg, store: store.New(), chronicle: &events.Chronicle{}, transport: &transport{},
		over: make(chan struct{}), links: newLinks(cfg.Credential, rpc.Through(cfg.Dial)),
	}
	m.store.Observe(m.chronicle)
	raft, err := consensus.Open(consensus.Config{
		Dir: cfg.Dir, Cluster: cfg.Cluster, Node: cfg.Node, Ring: cfg.Ring,
		Machine: keyed{counted{machine{m.store}, &m.tally}, cfg.Ring}, Transport: m.transport, OnTenure: m.tenure, Snapshots: m.snapshots,
		MissingKey: func(ctx context.Context) error { return m.keys.Missing(ctx) }, Clock: m.store.Now, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	m.raft = raft
	m.db = store.NewDB(m.store, m.tally.Proposer(m.raft))
	m.db.Attribute(witness.Deed)
	m.keys, m.witness = m.newKeeper(), m.newWitness()
	m.outside = external.New(external.Config{Dial: cfg.Dial, Certificate: m.shown})
	m.connect()
	if m.rooms, err = m.furnish(); err != nil {
		return nil, err
	}
	return m, nil
}

// Run serves until ctx ends or consensus fails. Leadership is handed over on the
// way out, if there is somebody to take it.
func (m *Manager) Run(ctx context.Context) error {
	m.mount()
	defer m.unmount()
	defer m.links.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(m.over)
		return named("consensus", m.raft.Run(ctx))
	})
	g.Go(func() error { return named("dispatch", m.rooms.dispatch.Run(ctx)) })
	g.Go(func() error { return m.followMembers(ctx) })
	g.Go(func() error { return m.keepAddress(ctx) })
	g.Go(func() error { return m.keys.Run(ctx) })
	// A demoted or removed node is cut off at once (D7).
	g.Go(func() error { return enrol.Watch(ctx, m.store, m.cfg.Server.Recheck) })
	g.Go(func() error { return m.watchContact(ctx) })
	g.Go(func() error { return m.witness.Run(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// named says which part of the manager an error ended.
func named(part string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", part, err)
}

// watchContact keeps silence and reign true while nobody asks.
func (m *Manager) watchContact(ctx context.Context) error {
	for {
		changed := m.raft.Changed()
		s := m.raft.Status()
		m.silence.since(s.InContact)
		m.notice(s)
		m.reign.of(ctx, s.Leader)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// tenureRetry is how long a loop of a tenure that failed rests.
const tenureRetry = time.Second

// tenure does the leader's work until ctx ends. A loop that fails is started
// again: what it does, it reads anew from the store (level, not edge).
func (m *Manager) tenure(ctx context.Context, _ uint64) {
	var wg sync.WaitGroup
	for part, run := range map[string]func(context.Context) error{
		"leases":     m.rooms.dispatch.Tenure,
		"membership": func(ctx context.Context) error { return m.rooms.membership.Keep(witness.Own(ctx, "KeepManagers")) },
		"reconcile":  m.rooms.reconcile.Run,
		"herald":     m.herald,
		"tokens": func(ctx context.Context) error {
			return m.rooms.members.Keep(witness.Own(ctx, "KeepTokens"), m.cfg.Log)
		},
		"data keys":   func(ctx context.Context) error { return m.keys.Tenure(witness.Own(ctx, "RotateDataKey")) },
		"audit":       m.checkpoints,
		"condemn":     m.steps("CondemnNode", m.rooms.condemn.Step),
		"root":        m.steps("RotateRoot", m.rooms.rotation.Step),
		"external CA": func(ctx context.Context) error { return m.watchExternal(witness.Own(ctx, "WatchExternalCA")) },
	} {
		wg.Go(func() { m.again(ctx, part, run) })
	}
	wg.Wait()
}

// stepBeat is how often the leader looks whether there is a step to take.
const stepBeat = 500 * time.Millisecond

// steps returns the loop that takes the steps of a work of the swarm's own, did.
func (m *Manager) steps(did string, step func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		t := time.NewTicker(stepBeat)
		defer t.Stop()
		for {
			if err := step(witness.Own(ctx, did)); err != nil && ctx.Err() == nil {
				m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a step waits, and is taken again soon", slog.String("did", did), slog.Any("err", err))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
		}
	}
}

func (m *Manager) again(ctx context.Context, part string, run func(context.Context) error) {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a loop of the tenure ended early; starting it again",
			slog.String("part", part), slog.Any("err", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(tenureRetry):
		}
	}
}

// commitUnits proposes units that cannot conflict and waits until they are
// applied here.
func (m *Manager) commitUnits(ctx context.Context, units []*logv1.Unit) error {
	tx, err := proto.Marshal(&logv1.Transaction{Units: units})
	if err != nil {
		return fmt.Errorf("encode a transaction: %w", err)
	}
	return m.commit(ctx, tx)
}

func (m *Manager) commit(ctx context.Context, tx []byte) error {
	_, err := m.tally.Proposer(m.raft).Propose(ctx, tx)
	return err
}

// snapshots is how the operator wants snapshots taken and kept.
func (m *Manager) snapshots() consensus.Snapshots {
	spec := m.store.Snapshot().Cluster().GetSpec()
	return consensus.Snapshots{Interval: spec.GetSnapshotInterval(), Old: int(min(spec.GetOldSnapshots(), maxOldSnapshots))}
}

// maxOldSnapshots bounds what a slip of the finger keeps on a disk.
const maxOldSnapshots = 1000

// hello is what this manager says first on a stream (R27).
func (m *Manager) hello() *rpcv1.Hello {
	h := proto.CloneOf(m.cfg.Hello)
	h.Cluster, h.Node = m.cfg.Cluster.Bytes(), m.cfg.Node.Bytes()
	h.History = m.raft.History().Bytes()
	return h
}

// machine is the store as consensus sees it.
type machine struct{ *store.Store }

// Encode returns a function that writes the state as it is now.
func (m machine) Encode() func(io.Writer) error { return m.Snapshot().Encode }

// silence remembers since when this manager is out of contact.
type silence struct {
	mu    sync.Mutex // guards the field below
	start time.Time
}

// since returns for how long there has been no contact; 0 while there is.
func (s *silence) since(inContact bool) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if inContact {
		s.start = time.Time{}
		return 0
	}
	if s.start.IsZero() {
		s.start = time.Now()
	}
	return max(time.Nanosecond, time.Since(s.start))
}

var (
	_ dispatch.Raft     = office{}
	_ membership.Group  = office{}
	_ rpc.Leader        = office{}
	_ consensus.Machine = counted{}
)
