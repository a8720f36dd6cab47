package manager

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// links is this manager's connections to the others: one each, kept. A
// connection proves whom it reached by node id, so an address that now belongs
// to another host is found out at the handshake (R15).
type links struct {
	holder  *ca.Holder
	options []grpc.DialOption

	mu     sync.Mutex // guards the fields below; held for memory only
	conns  map[id.ID]*link
	former map[*grpc.ClientConn]*time.Timer // the timer closes it
	closed bool                             // no other connection is made: nobody would close it
}

type link struct {
	address string
	// shown is this node's credential when the connection was made. It is judged
	// by that for as long as it lasts, and refused when it is too old (R17).
	shown *ca.Credential
	conn  *grpc.ClientConn
}

// formerLife is how long a connection stays for what is under way on it when
// another takes its place because this node's certificate was renewed.
const formerLife = time.Minute

func newLinks(holder *ca.Holder, options []grpc.DialOption) *links {
	return &links{holder: holder, options: options, conns: make(map[id.ID]*link), former: make(map[*grpc.ClientConn]*time.Timer)}
}

// to returns the connection to a manager at an address.
func (l *links) to(node id.ID, address string) (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, rpc.Errorf(errdefs.ErrUnavailable, "this manager stops")
	}
	old, shown := l.conns[node], l.holder.Get()
	if old != nil && old.address == address && old.shown == shown {
		if old.conn.GetState() == connectivity.TransientFailure {
			// Its manager was away and is the leader now: calls that wait for it
			// are not to wait for the next try besides.
			old.conn.ResetConnectBackoff()
		}
		return old.conn, nil
	}
	conn, err := rpc.Dial(address, rpc.ClientTLS(l.holder, rpc.Peer{Node: node, Grace: rpc.ExpiredGrace}), l.options...)
	if err != nil {
		return nil, err
	}
	l.conns[node] = &link{address: address, shown: shown, conn: conn}
	switch {
	case old == nil:
	case old.address != address:
		_ = old.conn.Close() // the member moved; calls on the old address end with that
	default:
		l.former[old.conn] = time.AfterFunc(formerLife, func() { l.forget(old.conn) })
	}
	return conn, nil
}

// forget closes a connection that another took the place of.
func (l *links) forget(conn *grpc.ClientConn) {
	l.mu.Lock()
	delete(l.former, conn)
	l.mu.Unlock()
	_ = conn.Close() // what is still under way has had its time
}

func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for node, k := range l.conns {
		_ = k.conn.Close() // nothing is left to be said on it
		delete(l.conns, node)
	}
	for conn, timer := range l.former {
		timer.Stop()
		_ = conn.Close()
		delete(l.former, conn)
	}
}

// dialMember opens a connection of its own for consensus, which closes it.
func (m *Manager) dialMember(raftID uint64, address string) (*grpc.ClientConn, error) {
	node, err := m.nodeOf(raftID)
	if err != nil {
		return nil, err
	}
	return rpc.Dial(address, rpc.ClientTLS(m.cfg.Credential, rpc.Peer{Node: node, Grace: rpc.ExpiredGrace}), rpc.Through(m.cfg.Dial)...)
}

// nodeOf finds whose member raftID is, in the records or in what the join told.
func (m *Manager) nodeOf(raftID uint64) (id.ID, error) {
	if rec := m.store.Snapshot().Member(raftID); rec != nil {
		return id.FromBytes(rec.GetNode())
	}
	for _, p := range m.cfg.Peers {
		if p.RaftID == raftID {
			return p.Node, nil
		}
	}
	return id.ID{}, fmt.Errorf("member %016x has no record here", raftID)
}

// ping asks an address whether the node answers there; the handshake proves it.
func (m *Manager) ping(ctx context.Context, node id.ID, address string) error {
	conn, err := rpc.Dial(address, rpc.ClientTLS(m.cfg.Credential, rpc.Peer{Node: node}), rpc.Through(m.cfg.Dial)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = raftv1.NewRaftClient(conn).Ping(ctx, &raftv1.PingRequest{})
	return err
}

// followMembers keeps the transport's addresses those of the records.
func (m *Manager) followMembers(ctx context.Context) error {
	for _, p := range m.cfg.Peers {
		m.transport.SetPeer(p.RaftID, p.Address)
	}
	w := m.store.Watch(store.Key{Kind: store.KindMember})
	defer w.Close()
	known := make(map[uint64]string)
	for {
		w.Take()
		m.setPeers(known, m.store.Snapshot())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
		}
	}
}

func (m *Manager) setPeers(known map[uint64]string, snap *store.Snapshot) {
	seen := make(map[uint64]bool)
	for rec := range snap.Members() {
		seen[rec.GetRaftId()] = true
		if rec.GetRaftId() != m.raft.Status().RaftID && known[rec.GetRaftId()] != rec.GetAddress() {
			known[rec.GetRaftId()] = rec.GetAddress()
			m.transport.SetPeer(rec.GetRaftId(), rec.GetAddress())
		}
	}
	for raftID := range known {
		if !seen[raftID] {
			delete(known, raftID)
			m.transport.RemovePeer(raftID)
		}
	}
}

// hostname is what a node is called in messages.
func hostname(n *modelv1.Node, node id.ID) string {
	if h := n.GetDescription().GetHostname(); h != "" {
		return h
	}
	return node.Short()
}
