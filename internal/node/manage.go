package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// errNotWanted ends a manager side that is no longer a member of the group.
var errNotWanted = errors.New("this node is not a member of the managers any more")

// keepManager runs the manager side while there is one to run, makes one when
// the node's record wants a manager, and clears away what was taken out of the
// group. It returns when ctx ends.
func (l *life) keepManager(ctx context.Context) error {
	for failures := 0; ctx.Err() == nil; {
		v := l.look()
		err := l.manageOnce(ctx, v)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errNotWanted):
			l.setFault(nil)
			if err := l.node.clearManager(); err != nil {
				return err
			}
			l.node.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "manager side removed", slog.String("node", l.name()))
			failures = 0
		case err != nil:
			failures++
			l.setFault(err)
			l.node.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "manager side failed; trying again", slog.Any("err", err))
			// What the attempt itself changed is no reason to hurry, another wish is.
			if now := l.look(); now.wish == v.wish {
				l.pause(ctx, min(10*time.Second, time.Duration(failures)*200*time.Millisecond), now.changed)
			}
		default:
			failures = 0
		}
	}
	return ctx.Err()
}

// pause waits for d, or until something changed.
func (l *life) pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}

// manageOnce does the one thing that is to be done now.
func (l *life) manageOnce(ctx context.Context, v view) error {
	f, err := readFacts(l.node.state)
	if err != nil {
		return err
	}
	switch {
	case f.Member > 0 && takenOut(v.wish, f.Member):
		return errNotWanted
	case f.Member > 0:
		return l.manage(ctx, f)
	case f.Installed:
		err := l.finishJoin(ctx, f)
		if errors.Is(err, manager.ErrRolledBack) {
			return fmt.Errorf("%w: %w", errNotWanted, err) // another member is made of this node
		}
		return err
	case v.wish.GetRole() == modelv1.Role_ROLE_MANAGER:
		return l.joinManagers(ctx, v)
	}
	select {
	case <-ctx.Done():
	case <-v.changed:
	}
	return nil
}

// manage runs the member that is on the disk until ctx ends, it fails, or it is
// not wanted.
func (l *life) manage(ctx context.Context, f facts) error {
	m, listener, err := l.openManager(f)
	if err != nil {
		return err
	}
	return l.runManager(ctx, m, listener, func(ctx context.Context) error { return l.watchWish(ctx, m, f.Member) })
}

// openManager opens log and port.
func (l *life) openManager(f facts) (*manager.Manager, net.Listener, error) {
	ring, err := l.node.loadRing()
	if err != nil {
		return nil, nil, err
	}
	listener, err := l.listen()
	if err != nil {
		return nil, nil, err
	}
	m, err := manager.Open(manager.Config{
		Dir: l.node.cfg.StateDir, Node: l.who.Node, Cluster: l.who.Cluster, Credential: l.node.holder, Ring: ring,
		Server: l.node.server, Hello: l.node.hello(), Peers: f.managerPeers(), Dial: l.node.cfg.Outside.dial(), Log: l.node.cfg.Log,
	})
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return m, listener, nil
}

// listen opens the port that nodes and managers come to.
func (l *life) listen() (net.Listener, error) {
	l.mu.Lock()
	at := l.me.Facts.Listen
	l.mu.Unlock()
	listener, err := l.node.cfg.Outside.listen(at)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes: %w: free the port, or leave and join with another --listen-addr", err)
	}
	return listener, nil
}

// runManager runs a manager, its port and one more thing beside it.
func (l *life) runManager(ctx context.Context, m *manager.Manager, listener net.Listener, beside func(context.Context) error) error {
	l.setManager(m)
	defer l.setManager(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(ctx, l.node.server, listener) })
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return beside(ctx) })
	return g.Wait()
}

// serve serves nodes on listener until ctx ends, and then takes no new ones.
func serve(ctx context.Context, s *rpc.Server, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // Serve returns by that
	defer stop()
	if err := s.ServeTLS(listener); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (l *life) setManager(m *manager.Manager) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.manager = m
	if m != nil {
		l.fault = nil
	}
	l.signal()
}

func (l *life) setFault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
	// No signal: who waits would be woken by what it just did.
}

// watchWish returns errNotWanted when a manager, at an index at which this
// member was in the group already, says that the node's member is not this one.
func (l *life) watchWish(ctx context.Context, m *manager.Manager, since uint64) error {
	for {
		v := l.look()
		if gone(v.wish, m.RaftID(), since) {
			return errNotWanted
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.changed:
		}
	}
}

// takenOut is gone for a member whose log cannot be opened: demoting its node is
// the way out then, so it must not need the log.
func takenOut(w *dispatchv1.Wish, since uint64) bool {
	return w != nil && w.GetIndex() >= since && w.GetMember() == 0
}

func gone(w *dispatchv1.Wish, raftID, since uint64) bool {
	return w != nil && w.GetIndex() >= since && w.GetMember() != raftID
}

// joinManagers gets what a member needs onto the disk: a manager's certificate,
// the ring and an empty log (R20). What was left of an attempt that was cut
// short is cleared first: a raft id is never used twice (R24).
func (l *life) joinManagers(ctx context.Context, v view) error {
	if !l.isManager() {
		// The wish has asked for the certificate. If it does not come, the record
		// may have one that never arrived here (R17): ask again.
		if l.pause(ctx, renewPatience, v.changed); ctx.Err() == nil && !l.changedSince(v) {
			l.renewer.Now()
		}
		return nil
	}
	if err := l.node.clearManager(); err != nil {
		return err
	}
	raftID := manager.NewRaftID()
	resp, err := l.askToJoin(ctx, raftID)
	if err != nil {
		return err
	}
	return l.install(resp, raftID)
}

// isManager reports whether this node's certificate says manager.
func (l *life) isManager() bool {
	return l.node.holder.Get().Identity.Role == modelv1.Role_ROLE_MANAGER
}

// changedSince reports whether v is not the newest view.
func (l *life) changedSince(v view) bool {
	select {
	case <-v.changed:
		return true
	default:
		return false
	}
}

// askToJoin asks the leader for the ring. The leader dials this node back, so
// the port is served meanwhile.
func (l *life) askToJoin(ctx context.Context, raftID uint64) (*raftv1.JoinResponse, error) {
	listener, err := l.listen()
	if err != nil {
		return nil, err
	}
	l.node.server.Mount(&raftv1.Raft_ServiceDesc, &pinged{node: l.node})
	defer l.node.server.Mount(&raftv1.Raft_ServiceDesc, nil)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, sctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(sctx, l.node.server, listener) })
	resp, err := l.requestJoin(sctx, raftID)
	stop()
	return resp, errors.Join(err, g.Wait())
}

// pinged answers the leader's dial before there is a member to answer: the
// handshake alone proves who is here.
type pinged struct {
	raftv1.UnimplementedRaftServer
	node *Node
}

// Ping says hello.
func (p *pinged) Ping(context.Context, *raftv1.PingRequest) (*raftv1.PingResponse, error) {
	return &raftv1.PingResponse{Hello: p.node.hello()}, nil
}

// finishJoin runs the member that is installed and has it made a learner. It may
// be done again after a crash: the leader changes once (R24).
func (l *life) finishJoin(ctx context.Context, f facts) error {
	m, listener, err := l.openManager(f)
	if err != nil {
		return err
	}
	return l.runManager(ctx, m, listener, func(ctx context.Context) error {
		var err error
		if f.Member, err = l.becomeLearner(ctx, m.RaftID()); err != nil {
			return err
		}
		if err := f.write(l.node.state); err != nil {
			return err
		}
		return l.watchWish(ctx, m, f.Member)
	})
}

func (l *life) requestJoin(ctx context.Context, raftID uint64) (resp *raftv1.JoinResponse, err error) {
	ctx, stop := context.WithTimeout(ctx, joinTimeout)
	defer stop()
	err = l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err = raftv1.NewMembersClient(conn).Join(ctx, &raftv1.JoinRequest{
			Hello: l.node.hello(), RaftId: raftID, Address: l.advertised(),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("join the managers: %w", err)
	}
	return resp, nil
}

// renewPatience is how long a certificate of the new role is waited for before it
// is asked for again.
const renewPatience = 5 * time.Second

// joinTimeout bounds one attempt to join the managers.
const joinTimeout = 30 * time.Second

// install puts ring and empty log on the disk.
func (l *life) install(resp *raftv1.JoinResponse, raftID uint64) error {
	ring, err := sealed.RingFromProto(resp.GetRing())
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	history, err := id.FromBytes(resp.GetHistory())
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	f := facts{Installed: true}
	for _, p := range resp.GetPeers() {
		node, err := id.FromBytes(p.GetNode())
		if err != nil {
			return fmt.Errorf("join the managers: %w", err)
		}
		f.Peers = append(f.Peers, peer{RaftID: p.GetRaftId(), Node: node.String(), Address: p.GetAddress()})
	}
	if err := l.node.keys.SaveRing(resp.GetRing()); err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	err = manager.JoinLog(manager.Log{
		Dir: l.node.cfg.StateDir, RaftID: raftID, Cluster: l.who.Cluster, History: history, Node: l.who.Node,
		Ring: ring, Log: l.node.cfg.Log,
	})
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	return f.write(l.node.state)
}

// becomeLearner asks to be made a learner until it is, and returns the index of
// its record.
func (l *life) becomeLearner(ctx context.Context, raftID uint64) (uint64, error) {
	ctx, stop := context.WithTimeout(ctx, joinTimeout)
	defer stop()
	for {
		var resp *raftv1.ReadyResponse
		err := l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			resp, err = raftv1.NewMembersClient(conn).Ready(ctx, &raftv1.ReadyRequest{RaftId: raftID, Address: l.advertised()})
			return err
		})
		if err == nil {
			return resp.GetIndex(), nil
		}
		if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
			l.node.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "not let in among the managers", slog.Any("err", err))
			return 0, errNotWanted
		}
		if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return 0, fmt.Errorf("join the managers: %w", err)
		}
		l.pause(ctx, 200*time.Millisecond, nil)
	}
}

func (l *life) advertised() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.me.Facts.Advertise
}

// managerPeers is the peers as the manager takes them. Those whose node is not
// readable are left out; the records name them soon enough.
func (f facts) managerPeers() []manager.Peer {
	var out []manager.Peer
	for _, p := range f.Peers {
		if node, err := id.Parse(p.Node); err == nil {
			out = append(out, manager.Peer{RaftID: p.RaftID, Node: node, Address: p.Address})
		}
	}
	return out
}
