// Package wire carries consensus between members: one long-lived gRPC stream
// per peer and direction, and one for each snapshot.
//
// It owns connections to peers, what waits to be sent on them, and the news of
// their breaking. It does not say who may connect (rpc does, by WHO_MEMBER and
// Config.Check), nor where members are (SetPeer).
//
// Invariant: a message is delivered to the member it is for, from the member it
// names, or not at all; nothing waits without bound.
package wire

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/skep-project/skep/manager/consensus"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
)

const (
	// queueBytes and queueCount bound what waits for one peer. Beyond them
	// messages are dropped and the peer is reported unreachable.
	queueBytes = 16 << 20
	queueCount = 4096
	// frameBytes is the size at which a frame is sent; one message may exceed it.
	frameBytes = 1 << 20
	// chunkBytes is the size of a snapshot's pieces.
	chunkBytes = 64 << 10
)

// Config configures a Transport. FIPS, Heard and Check may be nil.
type Config struct {
	// RaftID is this member's.
	RaftID uint64
	// Hello returns what this member says first on every stream.
	Hello func() *rpcv1.Hello
	// Address is where this member is reached now. Empty is not told.
	Address string
	// Dial returns a connection to a member, authenticated as one. The
	// Transport closes it.
	Dial func(ctx context.Context, raftID uint64, address string) (*grpc.ClientConn, error)
	// FIPS reports whether a member must say that it is in FIPS 140-3 mode. Nil
	// means that none must.
	FIPS func() bool
	// Heard is told of each peer's hello.
	Heard func(raftID uint64, hello *rpcv1.Hello)
	// Check says whether the caller of ctx may speak as a member.
	Check func(ctx context.Context, raftID uint64) error
	// Probe opens a bare connection to an address. Nil means the net package's.
	Probe func(ctx context.Context, address string) (net.Conn, error)
	// Log receives records.
	Log *slog.Logger
}

// A Transport is consensus.Transport over gRPC.
type Transport struct {
	cfg Config

	mu      sync.Mutex // guards the fields below; never held across I/O
	peers   map[uint64]*peer
	records map[uint64]string // where SetPeer says members are
	words   map[uint64]*word  // where those say that are heard
	handler consensus.Handler // nil before Run and after it
	start   func(*peer)       // starts a peer's goroutines; nil unless Run runs
}

var _ consensus.Transport = (*Transport)(nil)

// New returns a transport that does nothing until Run.
func New(cfg Config) *Transport {
	if cfg.Probe == nil {
		cfg.Probe = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	return &Transport{cfg: cfg, peers: map[uint64]*peer{}, records: map[uint64]string{}, words: map[uint64]*word{}}
}

// Run connects to the peers and gives h what comes in, until ctx ends. All of
// its goroutines have returned when it does.
func (t *Transport) Run(ctx context.Context, h consensus.Handler) error {
	var wg sync.WaitGroup
	t.mu.Lock()
	t.handler = h
	t.start = func(p *peer) {
		run, stop := context.WithCancel(ctx)
		p.stop = stop
		wg.Go(func() { p.run(run, h) })
		wg.Go(func() { p.runSnapshots(run, h) })
	}
	for _, p := range t.peers {
		t.start(p)
	}
	t.mu.Unlock()

	<-ctx.Done()
	t.mu.Lock()
	t.handler, t.start = nil, nil
	t.mu.Unlock()
	wg.Wait()
	return nil
}

// SetPeer says where a member is by its record. Another address than before
// replaces the connection, unless the member says itself where it is: records
// may be old, above all while the log is read again after a start.
func (t *Transport) SetPeer(raftID uint64, address string) {
	if raftID == t.cfg.RaftID || raftID == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records[raftID] = address
	if t.words[raftID] == nil {
		t.place(raftID, address)
	}
}

// A word is what a member says of where it is, on a stream that is open.
type word struct{ address string }

// heed answers a member where it says it is, until the returned function is
// called: then its record counts again, if it is not reached.
func (t *Transport) heed(raftID uint64, address string) (forget func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &word{address}
	t.words[raftID] = w
	t.place(raftID, address)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.words[raftID] != w {
			return // it has said something newer, or is no member any more
		}
		delete(t.words, raftID)
		if record, p := t.records[raftID], t.peers[raftID]; record != "" && p != nil && !p.isUp() {
			t.place(raftID, record)
		}
	}
}

// place makes the way to a member that is at an address; t.mu is held.
func (t *Transport) place(raftID uint64, address string) {
	if old := t.peers[raftID]; old != nil {
		if old.address == address {
			return
		}
		old.end()
	}
	p := newPeer(t, raftID, address)
	t.peers[raftID] = p
	if t.start != nil {
		t.start(p)
	}
}

// heard notes that a peer has just opened a stream to this member.
func (t *Transport) heard(raftID uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[raftID]; p != nil {
		p.heard()
	}
}

// RemovePeer forgets a member, and closes the connection to it when what waits
// is sent, within a second.
func (t *Transport) RemovePeer(raftID uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.records, raftID)
	delete(t.words, raftID)
	if p := t.peers[raftID]; p != nil {
		p.leave()
		delete(t.peers, raftID)
	}
}

// Connected reports whether this member's stream to a peer is up.
func (t *Transport) Connected(raftID uint64) bool {
	t.mu.Lock()
	p := t.peers[raftID]
	t.mu.Unlock()
	return p != nil && p.isUp()
}

// Send takes messages for any peers. It does not block.
func (t *Transport) Send(msgs []*raftpb.Message) {
	t.mu.Lock()
	h := t.handler
	byPeer := make(map[*peer][]*raftpb.Message, len(t.peers))
	var order []*peer
	for _, m := range msgs {
		p := t.peers[m.GetTo()]
		if p == nil {
			continue // nobody has said where it is: lost, as on any network
		}
		if byPeer[p] == nil {
			order = append(order, p)
		}
		byPeer[p] = append(byPeer[p], m)
	}
	t.mu.Unlock()
	for _, p := range order {
		for _, m := range byPeer[p] {
			p.send(m, h)
		}
		p.ring()
	}
}

// checkHello says why a peer that says this hello is none of ours (R27).
func (t *Transport) checkHello(raftID uint64, theirs *rpcv1.Hello) error {
	ours := t.cfg.Hello()
	if string(theirs.GetCluster()) != string(ours.GetCluster()) {
		return fmt.Errorf("member %016x is of another cluster", raftID)
	}
	if string(theirs.GetHistory()) != string(ours.GetHistory()) {
		return fmt.Errorf("member %016x is of another history of this cluster: one of the two was made by --force-new-cluster, the other must rejoin", raftID)
	}
	if t.cfg.FIPS != nil && t.cfg.FIPS() && !theirs.GetFips() {
		return fmt.Errorf("member %016x does not say that it is in FIPS 140-3 mode, which the swarm asks for: start its daemon as \"ctl daemon --fips\"", raftID)
	}
	if t.cfg.Heard != nil {
		t.cfg.Heard(raftID, theirs)
	}
	return nil
}

func (t *Transport) current() consensus.Handler {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handler
}
