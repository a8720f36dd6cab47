package manager

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/condemn"
	"github.com/skep-project/skep/manager/consensus/wire"
	"github.com/skep-project/skep/manager/control"
	"github.com/skep-project/skep/manager/dispatch"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/membership"
	"github.com/skep-project/skep/manager/orchestrate"
	"github.com/skep-project/skep/manager/reconcile"
	"github.com/skep-project/skep/manager/rotation"
	"github.com/skep-project/skep/manager/schedule"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/witness"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// rooms is what works in a manager.
type rooms struct {
	control    *control.Server
	authority  *authority.Server
	dispatch   *dispatch.Server
	membership *membership.Server
	reconcile  *reconcile.Loop
	members    *enrol.Members
	rotation   *rotation.Keeper
	condemn    *condemn.Keeper
}

// furnish builds the rooms and joins them by what each needs of another.
func (m *Manager) furnish() (r rooms, err error) {
	o := office{m}
	r.dispatch = dispatch.New(dispatch.Config{
		Store: m.store, Commit: m.commitUnits, Raft: o, Managers: enrol.ManagerList,
		Hello: m.hello, Self: m.cfg.Node, Log: m.cfg.Log,
	})
	r.membership = membership.New(membership.Config{
		Store: m.store, Commit: m.commit, Group: o, Ring: func() *logv1.Ring { return m.cfg.Ring.Proto() },
		Give: m.keys.Give, Kept: m.keys.Kept, By: witness.Deed, Record: m.record,
		Ping: m.ping, Log: m.cfg.Log,
	})
	r.reconcile = reconcile.New(reconcile.Config{DB: m.db, Store: m.store, OnRound: m.tally.Round, Log: m.cfg.Log})
	r.members = enrol.NewMembers(m.db)
	if r.authority, err = authority.New(authority.Config{Members: r.members, Outside: m.outside, Self: m.cfg.Node, Log: m.cfg.Log}); err != nil {
		return rooms{}, err
	}
	update := func(ctx context.Context, fn func(*store.Tx) error) error {
		_, err := m.db.Update(ctx, nil, fn)
		return err
	}
	r.rotation = rotation.New(rotation.Config{Store: m.store, Log: m.cfg.Log, Update: update})
	r.condemn = condemn.New(condemn.Config{Store: m.store, Log: m.cfg.Log, Update: update, Revoke: control.RevokeToken, Rotate: roots{r.authority}.rotate})
	r.control, err = control.New(control.Config{
		Self: m.cfg.Node, DB: m.db, Group: group{o, r.membership}, Events: m.chronicle, Users: r.authority, Roots: roots{r.authority}, Condemn: condemned{}, Managers: enrol.ManagerList,
		Seal: m.seal,
		Decisions: control.Decisions{
			Constraint: func(s string) error { _, err := schedule.ParseConstraint(s); return err },
			Spread:     func(s string) error { _, err := schedule.ParseSpread(s); return err },
			Revise:     orchestrate.Revise, RollBack: orchestrate.RollBack, Resume: orchestrate.Resume,
		},
	})
	return r, err
}

// roots is what control needs to have the root rotated.
type roots struct{ authority *authority.Server }

// View shows the root and how far a rotation of it is, and a condemnation.
func (roots) View(snap *store.Snapshot) *controlv1.RootView {
	return condemn.View(snap.Cluster(), rotation.View(snap))
}

// Next makes the root that is asked for, or checks the one that is given; a nil
// root to follow: none is needed.
func (r roots) Next(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (*control.NextRoot, error) {
	from, err := rotation.From(c, msg)
	if err != nil || from == nil {
		return &control.NextRoot{}, err
	}
	cluster, err := id.FromBytes(c.GetId())
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	next := authority.Succession{Cluster: cluster, Spec: c.GetSpec(), From: from, Cross: msg.GetCross()}
	if msg.GetCertExpiry() != 0 {
		next.Spec = proto.CloneOf(next.Spec)
		next.Spec.CertExpiry = msg.GetCertExpiry()
	}
	if len(msg.GetCertificate()) > 0 {
		next.To = &modelv1.RootKey{Certificate: msg.GetCertificate(), Key: msg.GetKey(), External: msg.GetExternal(), Given: true}
	}
	to, cross, err := r.authority.NextRoot(ctx, next, time.Now())
	if err != nil {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "next root: %v", err)
	}
	return &control.NextRoot{From: from, To: to, Cross: cross}, nil
}

// Try returns an error unless each of the external CAs signs for the root of c.
func (r roots) Try(ctx context.Context, c *modelv1.Cluster, external []*modelv1.ExternalCA) error {
	if len(external) == 0 {
		return nil
	}
	cluster, err := id.FromBytes(c.GetId())
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	root := &modelv1.RootKey{Certificate: c.GetRoot().GetCertificates()[0], External: external}
	if _, err := r.authority.TryOutside(ctx, cluster, c.GetSpec(), root, c.GetRoot().GetVia()); err != nil {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "external CA: %v", err)
	}
	return nil
}

// Move has the root in c be asked for at those external CAs.
func (roots) Move(c *modelv1.Cluster, external []*modelv1.ExternalCA) error {
	return rotation.Move(c, external)
}

// Begin writes the rotation into c.
func (roots) Begin(c *modelv1.Cluster, msg *controlv1.RotateRootRequest, next *control.NextRoot, by string, at int64) error {
	return rotation.Begin(c, msg, rotation.Next(*next), by, at)
}

// Abort has the rotation that is under way in c go back.
func (roots) Abort(c *modelv1.Cluster, msg *controlv1.AbortRootRotationRequest, at int64) error {
	return rotation.Abort(c, msg, at)
}

// rotate makes the root that msg asks for, and returns what begins its rotation.
func (r roots) rotate(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (func(c *modelv1.Cluster, by string, at int64) error, error) {
	next, err := r.Next(ctx, c, msg)
	if err != nil {
		return nil, err
	}
	return func(c *modelv1.Cluster, by string, at int64) error { return r.Begin(c, msg, next, by, at) }, nil
}

// condemned is what control must know of what becomes of managers that may be
// compromised.
type condemned struct{}

// Begin writes into c that a node is one.
func (condemned) Begin(c *modelv1.Cluster, node *modelv1.Condemned, msg *controlv1.CondemnNodeRequest, by string, at int64) bool {
	return condemn.Begin(c, node, msg, by, at)
}

// Names are nodes that are, for a sentence.
func (condemned) Names(nodes []*modelv1.Condemned) string { return condemn.Names(nodes) }

// group is the raft group as control sees it.
type group struct {
	office
	keeper *membership.Server
}

// Leader returns the raft id of the leader.
func (g group) Leader() uint64 { return g.raft.Status().Leader }

// MissedSince says since when a member does not answer this manager, in Unix
// nanoseconds of its own clock; 0 if it does.
func (g group) MissedSince(raftID uint64) int64 {
	answers := g.Reachability(raftID) != controlv1.ManagerStatus_REACHABILITY_UNREACHABLE
	if since := g.missing.at(raftID, answers); !since.IsZero() {
		return since.UnixNano()
	}
	return 0
}

// Reachability says whether a member answers this manager.
func (g group) Reachability(raftID uint64) controlv1.ManagerStatus_Reachability {
	s := g.raft.Status()
	switch {
	case raftID == s.RaftID, s.Progress[raftID].Active, raftID == s.Leader && s.InContact:
		return controlv1.ManagerStatus_REACHABILITY_REACHABLE
	case !s.Leading && g.answers(raftID):
		return controlv1.ManagerStatus_REACHABILITY_REACHABLE
	}
	return controlv1.ManagerStatus_REACHABILITY_UNREACHABLE
}

// contactGrace is for how long a manager may be out of contact before what it
// shows is called old: an election ends before.
const contactGrace = 3 * time.Second

// Contact returns nil while this manager hears the quorum.
func (g group) Contact() error {
	select {
	case <-g.over: // the status is the last there was
		return errStops()
	default:
	}
	if f := g.Freshness(); f.InContact || f.Silence < contactGrace {
		return nil
	}
	return g.noLeader()
}

// CanLose returns nil if the group keeps its quorum without the node's vote.
func (g group) CanLose(node id.ID) error { return g.keeper.CanLose(node) }

// served is the manager's services and who serves them.
func (m *Manager) served() map[*grpc.ServiceDesc]any {
	return map[*grpc.ServiceDesc]any{
		&controlv1.Control_ServiceDesc:   m.rooms.control,
		&cav1.Authority_ServiceDesc:      m.tally.Authority(m.rooms.authority),
		&dispatchv1.Dispatch_ServiceDesc: m.tally.Dispatch(m.rooms.dispatch),
		&raftv1.Members_ServiceDesc:      m.rooms.membership,
		&raftv1.Raft_ServiceDesc:         m.transport.Server(),
	}
}

// mount puts the services on the node's server and takes the office.
func (m *Manager) mount() {
	o := office{m}
	m.cfg.Server.SetOffice(&enrol.Authorizer{
		Store: m.store, Barrier: o.Barrier, InContact: o.InContact, StaleOK: o.StaleOK, Invited: m.invited,
	}, o)
	m.cfg.Server.SetWitness(m.witness)
	for desc, impl := range m.served() {
		m.cfg.Server.Mount(desc, impl)
	}
}

// unmount takes them off again; open streams of nodes are cut.
func (m *Manager) unmount() {
	for desc := range m.served() {
		m.cfg.Server.Mount(desc, nil)
	}
	m.cfg.Server.SetOffice(nil, nil)
	m.cfg.Server.SetWitness(nil)
	m.cfg.Server.Recheck()
}

// invited reports whether a node was among the members when this one joined.
func (m *Manager) invited(node id.ID) bool {
	for _, p := range m.cfg.Peers {
		if p.Node == node {
			return true
		}
	}
	return false
}

// transport is the way to the other members; consensus is opened with it before
// it is known whose it is.
type transport struct{ *wire.Transport }

// connect makes the transport of this member.
func (m *Manager) connect() {
	m.transport.Transport = wire.New(wire.Config{
		RaftID: m.raft.Status().RaftID, Address: m.cfg.Address, Hello: m.hello, Check: m.isMember, Probe: m.cfg.Dial, Log: m.cfg.Log,
		FIPS: func() bool { return m.store.Snapshot().Cluster().GetFips() },
		Dial: func(_ context.Context, raftID uint64, address string) (*grpc.ClientConn, error) {
			return m.dialMember(raftID, address)
		},
	})
}

// isMember says whether the caller may speak as a member: the member's record,
// or what the join told, names the caller's node.
func (m *Manager) isMember(ctx context.Context, raftID uint64) error {
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return rpc.Errorf(errdefs.ErrPermissionDenied, "member %016x: the caller is not a node", raftID)
	}
	node, err := m.nodeOf(raftID)
	if err != nil {
		return rpc.Errorf(errdefs.ErrUnavailable, "%v", err)
	}
	if node != caller.Node {
		return rpc.Errorf(errdefs.ErrPermissionDenied, "node %s speaks as member %016x, which is node %s", caller.Node, raftID, node)
	}
	return nil
}

// JoinToken spells the standing token of a role.
func (m *Manager) JoinToken(role modelv1.Role) (string, error) {
	c := m.store.Snapshot().Cluster()
	secret := c.GetWorkerToken()
	if role == modelv1.Role_ROLE_MANAGER {
		secret = c.GetManagerToken()
	}
	root := store.PinnedRoot(c.GetRoot())
	if len(secret) == 0 || root == nil {
		return "", fmt.Errorf("the swarm has no standing token: %w", errdefs.ErrNotFound)
	}
	return ca.Token{Digest: ca.RootDigest(root), Secret: sealed.NewSecret(secret), FIPS: c.GetFips()}.Reveal(), nil
}
