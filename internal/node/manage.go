package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
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
		case errors.Is(err, errMoved):
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
	if v.wish != nil { // it is a worker: its disk needs no key
		if err := l.relock(sealed.Secret{}, 0); err != nil {
			return err
		}
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
	m, listener, err := l.openManager(ctx, f)
	if err != nil {
		return err
	}
	return l.runManager(ctx, m, listener, func(ctx context.Context) error { return l.watchWish(ctx, m, f.Member) })
}

// openManager opens log and port.
func (l *life) openManager(ctx context.Context, f facts) (*manager.Manager, net.Listener, error) {
	ring, err := l.node.loadRing()
	if err != nil {
		return nil, nil, err
	}
	l.readdress(ctx)
	listener, err := l.listen()
	if err != nil {
		return nil, nil, err
	}
	m, err := manager.Open(manager.Config{
		Dir: l.node.cfg.StateDir, Node: l.who.Node, Cluster: l.who.Cluster, Credential: l.node.holder, Ring: ring,
		Server: l.node.server, Hello: l.node.hello(), Address: l.advertised(), Peers: f.managerPeers(), Vault: l, Dial: l.node.cfg.Outside.dial(), Log: l.node.cfg.Log,
	})
	if errors.Is(err, sealed.ErrUnknownKey) {
		err = errors.Join(err, l.fetchRing(ctx))
	}
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
	g.Go(func() error { return l.watchAddress(ctx) })
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
