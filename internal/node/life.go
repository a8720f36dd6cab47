package node

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/session"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A life is this node's time as a member with one identity: the agent always,
// the manager side while the cluster wants it.
type life struct {
	node    *Node
	who     ca.Identity
	runtime runtime
	agent   *agent.Agent
	renewer *client.Renewer

	// farewell is what the agent says when the life ends.
	farewell modelv1.Farewell

	mu      sync.Mutex // guards the fields below
	me      *keystore.Node
	trust   trust
	wish    *dispatchv1.Wish
	revoked string
	manager *manager.Manager
	fault   error // of the manager side
	clock   skew  // as far as somebody told
	waits   *client.Waiting
	denied  string        // why the managers do not renew the certificate
	changed chan struct{} // closed, and another made, when one of them changes

	// untimely holds a manager whose certificate has ended by the clock here.
	untimely chan *cav1.Manager // capacity 1: one is asked as well as all
}

// newLife puts together what lives with an identity. It starts nothing.
func (n *Node) newLife(ctx context.Context, me *keystore.Node) (*life, error) {
	cred, err := me.Credential()
	if err != nil {
		return nil, err
	}
	n.holder.Set(cred)
	me = n.readdress(ctx, me)
	trusts := cred.Roots.Digest()
	l := &life{
		node: n, who: cred.Identity, me: me, changed: make(chan struct{}), untimely: make(chan *cav1.Manager, 1),
		farewell: modelv1.Farewell_FAREWELL_RESTARTING,
	}
	if l.runtime, err = n.newRuntime(l.who); err != nil {
		return nil, err
	}
	if err := n.state.MkdirAll(agentDir, 0o700); err != nil {
		return nil, err
	}
	if err := n.settleKeys(l.who); err != nil {
		return nil, errors.Join(err, l.runtime.Close())
	}
	l.agent, err = agent.New(agent.Config{
		Runtime: l.runtime, StateDir: filepath.Join(n.cfg.StateDir, agentDir), KEK: n.keys.KEK(),
		Node: l.who.Node, Cluster: l.who.Cluster, Hello: n.hello(), Dial: l.dialSession, Managers: l.firstManagers(), Named: me.Facts.Named.GetManagers(),
		Description: &modelv1.NodeDescription{
			Hostname: n.cfg.Hostname, Version: version.Version, Address: endpoint{advertise: me.Facts.Advertise}.host(), Fips: n.cfg.FIPS,
		},
		OnWish: l.onWish, OnRevoked: l.onRevoked, OnManagers: l.onManagers, Log: n.cfg.Log,
	})
	if err != nil {
		return nil, errors.Join(err, l.runtime.Close())
	}
	l.agent.Trusts(trusts[:])
	l.renewer, err = client.NewRenewer(client.RenewerConfig{
		Holder: n.holder, Pending: n.keys.Pending, Save: l.save, Renew: l.renew, Waits: l.onWaits,
		Renewed: func(cred *ca.Credential) { l.tellTrust(cred.Roots); l.agent.Renewed(); l.poke() }, Log: n.cfg.Log,
	})
	if err != nil {
		return nil, errors.Join(err, l.runtime.Close())
	}
	return l, nil
}

// run lives until ctx ends. The order of the end: the manager hands leadership
// over and its streams are closed while the agent still speaks, then the agent
// says farewell. Containers are left running.
func (l *life) run(ctx context.Context) error {
	defer l.runtime.Close() //nolint:errcheck // a client of containerd has nothing to lose
	agentCtx, stopAgent := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAgent()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.renewer.Run(ctx) })
	g.Go(func() error { return l.keepClock(ctx) })
	g.Go(func() error {
		defer l.bye(agentCtx, stopAgent)
		return l.keepManager(ctx)
	})
	g.Go(func() error { return l.runtime.Run(agentCtx) })
	g.Go(func() error { return l.agent.Run(agentCtx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// byeTime bounds the agent's last words, and byePause is the rest before they are
// tried again.
const (
	byeTime  = 2 * time.Second
	byePause = 20 * time.Millisecond
)

// bye lets the agent say why it goes, then stops it.
func (l *life) bye(ctx context.Context, stop context.CancelFunc) {
	ctx, end := context.WithTimeout(ctx, byeTime)
	defer end()
	l.mu.Lock()
	say := l.farewell
	l.mu.Unlock()
	select {
	case <-l.node.cfg.HostDown:
		say = modelv1.Farewell_FAREWELL_HOST_DOWN
	default:
	}
	err := l.agent.Farewell(ctx, say)
	// A manager's own session ends with its manager side: another hears it.
	for errors.Is(err, session.ErrNoSession) && l.hasOthers() && ctx.Err() == nil {
		l.pause(ctx, byePause, nil)
		err = l.agent.Farewell(ctx, say)
	}
	if err != nil {
		l.node.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "nobody heard the farewell", slog.Any("err", err))
	}
	stop()
}

// hasOthers reports whether there is a manager besides this node.
func (l *life) hasOthers() bool {
	for _, m := range l.managers().GetManagers() {
		if string(m.GetNode()) != string(l.who.Node.Bytes()) {
			return true
		}
	}
	return false
}

// firstManagers is the list the agent begins with. The founder's has no list yet:
// it is the only manager itself.
func (l *life) firstManagers() *cav1.ManagerList {
	if l.me.Facts.Managers != nil {
		return l.me.Facts.Managers
	}
	return &cav1.ManagerList{Managers: []*cav1.Manager{{Node: l.who.Node.Bytes(), Address: l.me.Facts.Advertise}}}
}

// dialSession is dial for the agent, which knows itself how long to wait.
func (l *life) dialSession(_ context.Context, m *cav1.Manager) (*grpc.ClientConn, error) {
	return l.dial(m, rpc.Patiently())
}

// dial opens a connection to a manager of the newest list, and to no one else
// (R15).
func (l *life) dial(m *cav1.Manager, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	address, peer, err := l.peer(m)
	if err != nil {
		return nil, err
	}
	return rpc.Dial(address, rpc.ClientTLS(l.node.holder, peer), append(more, rpc.Through(l.node.cfg.Outside.dial())...)...)
}

// peer is who must answer where for a manager of the list.
func (l *life) peer(m *cav1.Manager) (address string, peer rpc.Peer, err error) {
	node, err := id.FromBytes(m.GetNode())
	if err != nil {
		return "", peer, fmt.Errorf("manager at %s: %w", m.GetAddress(), err)
	}
	address = m.GetAddress()
	if node == l.who.Node {
		address = l.advertised() // which the list may not say yet
	}
	peer = rpc.Peer{Node: node, ListedAt: l.listedAt(), Untimely: func() { l.doubtClock(m) }}
	if l.isManager() {
		// A swarm that was off for longer than its managers' certificates live
		// comes back because managers still renew with each other (R14).
		peer.Grace = rpc.ExpiredGrace
	}
	for _, k := range m.GetKeys() {
		d, err := ca.DigestFromBytes(k)
		if err != nil {
			return "", peer, fmt.Errorf("manager at %s: %w", m.GetAddress(), err)
		}
		peer.Keys = append(peer.Keys, d)
	}
	return address, peer, nil
}

func (l *life) listedAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.me.Facts.ListedAt
}

// managers is the newest list this node holds.
func (l *life) managers() *cav1.ManagerList {
	if list := l.agent.Status().Managers; len(list.GetManagers()) > 0 {
		return list
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.me.Facts.Managers
}

// anyManager calls do with a connection to one manager after the other until one
// does not fail for want of an answer.
func (l *life) anyManager(ctx context.Context, do func(context.Context, *grpc.ClientConn) error) error {
	l.mu.Lock()
	list := slices.Clone(l.me.Facts.Named.GetManagers())
	l.mu.Unlock()
	list = append(list, l.managers().GetManagers()...)
	err := rpc.Errorf(errdefs.ErrUnavailable, "this node knows no manager")
	for _, m := range list {
		var conn *grpc.ClientConn
		if conn, err = l.dial(m); err != nil {
			continue
		}
		err = do(ctx, conn)
		_ = conn.Close() // one call was made on it and has ended
		if err == nil || !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// renew asks for the next certificate.
func (l *life) renew(ctx context.Context, csr []byte) (issued *cav1.Issued, err error) {
	err = l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := cav1.NewAuthorityClient(conn).Renew(ctx, &cav1.RenewRequest{Csr: csr})
		issued = resp.GetIssued()
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.denied = ""
	case errdefs.IsPermissionDenied(err):
		l.denied, l.waits = err.Error(), nil
	}
	return issued, err
}

// save keeps a renewed certificate before it is used.
func (l *life) save(cred *ca.Credential, key *ecdsa.PrivateKey, list *cav1.ManagerList) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.me.Facts
	if list != nil && list.GetIndex() >= f.Managers.GetIndex() {
		f.Managers, f.ListedAt = list, time.Now()
	}
	if err := l.node.keep(cred, key, f); err != nil {
		return err
	}
	l.me = &keystore.Node{Key: key, Chain: cred.Chain, Roots: cred.Roots.DER(), IssuedAt: cred.IssuedAt, Facts: f}
	return nil
}

// onManagers takes in a newer list; the agent's journal keeps it. What the
// operator named instead of an older one has served.
func (l *life) onManagers(list *cav1.ManagerList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := *l.me
	next.Facts.Managers, next.Facts.ListedAt, next.Facts.Named = list, time.Now(), nil
	if l.me.Facts.Named != nil {
		if err := l.node.keys.Save(&next); err != nil {
			l.node.cfg.Log.Warn("managers that were named once are still tried after a restart", "err", err)
		}
	}
	l.me = &next
}

// onWish takes in what the node's record wants of it.
func (l *life) onWish(w *dispatchv1.Wish) {
	l.node.settled(l) // before whoever waits for this looks
	l.mu.Lock()
	l.wish, l.revoked = w, ""
	l.signal()
	l.mu.Unlock()
	l.onRoots(w)
	l.tellClock(w)
	if w.GetRenew() && l.node.holder.Get().Identity.Role != w.GetRole() {
		l.renewer.Now(w.GetRole())
	}
}

// onRevoked notes that a manager says this node is no member any more.
func (l *life) onRevoked(words string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The renewer knows by itself when a certificate has ended; not that it was revoked.
	if l.revoked == "" {
		l.renewer.Again()
	}
	l.revoked = words
	l.signal()
}

// onWaits notes that an operator has to allow this node's next certificate; nil: that
// is over.
func (l *life) onWaits(w *client.Waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = w
	l.signal()
}

// signal tells who waits that something changed. l.mu is held.
func (l *life) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// poke is signal for those who do not hold l.mu.
func (l *life) poke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signal()
}

// view is what the life knows now, and a channel closed when that changes.
type view struct {
	wish    *dispatchv1.Wish
	revoked string
	waits   *client.Waiting
	denied  string
	manager *manager.Manager
	fault   error
	changed <-chan struct{}
}

func (l *life) look() view {
	l.mu.Lock()
	defer l.mu.Unlock()
	return view{wish: l.wish, revoked: l.revoked, waits: l.waits, denied: l.denied, manager: l.manager, fault: l.fault, changed: l.changed}
}

// removeAll stops and removes every container of the node.
func removeAll(ctx context.Context, rt exec.Runtime, who ca.Identity) error {
	found, err := rt.List(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range found {
		g.Go(func() error {
			return rt.Task(exec.Spec{Cluster: who.Cluster, Node: who.Node, Task: c.Task, Service: c.Service, CreatedIndex: c.CreatedIndex}).Remove(ctx)
		})
	}
	return g.Wait()
}

// describe fills in what "ctl info" shows of a life.
func (l *life) describe(out *localv1.InfoResponse) {
	v, s := l.look(), l.agent.Status()
	cred := l.node.holder.Get()
	out.Node, out.Cluster = l.who.Node.Bytes(), l.who.Cluster.Bytes()
	out.Role = cred.Identity.Role
	out.Wanted = v.wish.GetRole()
	out.CertNotAfter = cred.Identity.NotAfter.UnixNano()
	out.CertRenewAt = l.renewer.NextAt().UnixNano()
	for _, m := range s.Managers.GetManagers() {
		out.ManagerAddresses = append(out.ManagerAddresses, m.GetAddress())
	}
	out.Running = uint32(s.Running) //nolint:gosec // a host runs fewer than 2^32 containers
	l.mu.Lock()
	out.Address, out.FipsRequired = endpoint{advertise: l.me.Facts.Advertise}.host(), l.me.Facts.FIPS
	if l.clock.ahead != 0 {
		out.ClockAhead, out.ClockBy = int64(l.clock.ahead), l.clock.by.Bytes()
	}
	l.mu.Unlock()
	switch {
	case v.waits != nil:
		out.State, out.Error = localv1.State_STATE_PENDING, fmt.Sprintf("%v: %v", v.revoked, v.waits)
	case v.revoked != "":
		out.State, out.Error = localv1.State_STATE_ERROR, cmp.Or(v.denied, v.revoked)
	case v.fault != nil:
		out.State, out.Error = localv1.State_STATE_ERROR, v.fault.Error()
	case s.Session.Alone.Err != nil:
		out.Error = fmt.Sprintf("no session with a manager for %v; every one is tried on, of late %v",
			time.Since(s.Session.Alone.Since).Round(time.Second), s.Session.Alone.Err)
	}
	if v.manager != nil {
		v.manager.Describe(out)
	}
}
