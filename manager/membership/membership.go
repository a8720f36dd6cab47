// Package membership owns who belongs to the raft group (D11, R24, R25).
//
// It hands the ring to a node that is to be a manager, makes it a learner, makes
// the learner a voter when it has caught up, and takes out a member whose
// record wants it to be a worker. It follows Node.spec.role, which control
// writes, and writes Node.role and the member records. If the operator wants
// it, it takes out a manager that is dead, and says so in the node's record.
//
// Invariants: one change at a time; the change of the group and of the records
// is one entry; no change is proposed after which the voters that were heard
// lately are not a quorum; a dead manager's going leaves three voters or more.
package membership

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

const (
	// beat is how often the keeper looks without being woken: whether a learner
	// has caught up is seen in no record.
	beat = 250 * time.Millisecond
	// changeTimeout bounds one membership change.
	changeTimeout = 10 * time.Second
	// dialBack bounds the check that a new manager can be reached.
	dialBack = 5 * time.Second
)

// A Voter is a member with a vote.
type Voter struct {
	RaftID uint64
	// Active: heard within an election timeout; the leader itself always is.
	Active bool
}

// A Learner is a member that is not yet a voter.
type Learner struct {
	RaftID uint64
	// CaughtUp: active for 2 s, and its log is near the commit index.
	CaughtUp bool
}

// Group is the raft group as its leader sees it, and the changes to it. A change
// carries the transaction that writes the records.
type Group interface {
	Self() uint64
	Members() ([]Voter, []Learner)
	AddLearner(ctx context.Context, raftID uint64, address string, tx []byte) error
	Promote(ctx context.Context, raftID uint64, tx []byte) error
	Remove(ctx context.Context, raftID uint64, tx []byte) error
	// TransferLeadership returns when another member leads, who is told why.
	TransferLeadership(ctx context.Context, why string) error
}

// Config configures a Server. Every field but By and Record is required.
type Config struct {
	Store *store.Store
	// Commit proposes one transaction.
	Commit func(ctx context.Context, tx []byte) error
	Group  Group
	// Ring is the data keys a new manager needs (R20).
	Ring func() *logv1.Ring
	// Give records that a node is given the data keys, before it is; Kept records
	// what a manager says of the keys it holds. Both are asked on the leader only.
	Give func(ctx context.Context, node id.ID) error
	Kept func(ctx context.Context, node id.ID, kept *raftv1.KeptRequest) error
	// By says who asks for what is done with a context, for the audit trail; nil
	// says nobody. Record has what another manager saw written into the trail. Both
	// may be nil: nothing is recorded then.
	By     func(ctx context.Context) *logv1.Deed
	Record func(ctx context.Context, by id.ID, sights []*logv1.Sight) error
	// Ping dials an address back and returns the node that answers there.
	Ping func(ctx context.Context, node id.ID, address string) error
	Log  *slog.Logger
}

// A Server answers nodes that join or leave the group, and keeps the group.
type Server struct {
	raftv1.UnimplementedMembersServer

	cfg Config
	// change is held over one membership change: one at a time (R25).
	change sync.Mutex
	// refused remembers what was said of a member, to say it once.
	refused map[uint64]string
	// vigil is the keeper's; change guards it.
	vigil vigil
}

// New returns a Server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, refused: make(map[uint64]string), vigil: vigil{}}
}

// wants returns the caller's record if it is to be a manager.
func (s *Server) wants(ctx context.Context, doing string) (*modelv1.Node, error) {
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return nil, rpc.Errorf(errdefs.ErrPermissionDenied, "%s: caller is not a node", doing)
	}
	n := s.cfg.Store.Snapshot().Node(caller.Node)
	switch {
	case n == nil:
		return nil, rpc.Errorf(errdefs.ErrNotFound, "%s: node %s", doing, caller.Node)
	case n.GetSpec().GetRole() != modelv1.Role_ROLE_MANAGER:
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "%s: node %s is to be a worker", doing, caller.Node),
			fmt.Sprintf("on a manager: ctl node promote %s", caller.Node.Short()))
	}
	return n, nil
}

// Join hands a coming manager the ring and the group (R20).
func (s *Server) Join(ctx context.Context, req *raftv1.JoinRequest) (*raftv1.JoinResponse, error) {
	n, err := s.wants(ctx, "join the managers")
	if err != nil {
		return nil, err
	}
	if req.GetRaftId() == 0 || req.GetAddress() == "" {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "join the managers: raft id and address are needed")
	}
	node, err := id.FromBytes(n.GetId())
	if err != nil {
		return nil, err
	}
	pctx, stop := context.WithTimeout(ctx, dialBack)
	defer stop()
	if err := s.cfg.Ping(pctx, node, req.GetAddress()); err != nil {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "join the managers: node %s cannot be reached at %s: %v", node, req.GetAddress(), err),
			"open the port between the managers, or name another address with --advertise-addr")
	}
	snap := s.cfg.Store.Snapshot()
	if has, needs := req.GetHello().GetFeatureLevel(), snap.Cluster().GetFeatureLevel(); has < needs {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "join the managers: version %s knows features up to level %d, the swarm uses level %d",
			req.GetHello().GetVersion(), has, needs), "install the version that the other managers run")
	}
	if snap.Cluster().GetFips() && !req.GetHello().GetFips() {
		return nil, rpc.RefuseFIPS("join the managers")
	}
	if err := s.cfg.Give(ctx, node); err != nil {
		return nil, fmt.Errorf("join the managers: %w", err)
	}
	snap = s.cfg.Store.Snapshot()
	resp := &raftv1.JoinResponse{
		Ring: s.cfg.Ring(), History: snap.Cluster().GetHistory(),
		UnlockKey: snap.Cluster().GetUnlockKey(), UnlockNumber: snap.Cluster().GetUnlockNumber(),
	}
	for m := range snap.Members() {
		if m.GetRaftId() != req.GetRaftId() {
			resp.Peers = append(resp.Peers, &raftv1.Peer{RaftId: m.GetRaftId(), Node: m.GetNode(), Address: m.GetAddress()})
		}
	}
	return resp, nil
}

// Ready makes a node that has the ring a learner. Asked twice, it changes once.
func (s *Server) Ready(ctx context.Context, req *raftv1.ReadyRequest) (*raftv1.ReadyResponse, error) {
	n, err := s.wants(ctx, "join the managers")
	if err != nil {
		return nil, err
	}
	node, err := id.FromBytes(n.GetId())
	if err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	snap := s.cfg.Store.Snapshot()
	if m := snap.MemberByNode(node); m != nil {
		if m.GetRaftId() == req.GetRaftId() {
			return &raftv1.ReadyResponse{Index: m.GetMeta().GetVersion()}, nil
		}
		// The node begins anew under another raft id: the old one never speaks again (R24).
		if err := s.remove(ctx, m); err != nil {
			return nil, fmt.Errorf("join the managers: take out the former member of node %s: %w", node, err)
		}
	}
	m := &modelv1.Member{
		RaftId: req.GetRaftId(), Node: node.Bytes(), Address: req.GetAddress(),
		Kind: modelv1.MemberKind_MEMBER_KIND_FULL, FeatureLevel: 1,
	}
	tx, err := encode(s.by(ctx), putMember(m))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, changeTimeout)
	defer stop()
	if err := s.cfg.Group.AddLearner(ctx, req.GetRaftId(), req.GetAddress(), tx); err != nil {
		return nil, fmt.Errorf("make node %s a learner: %w", node, err)
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "manager is learning", slog.String("node", node.String()), slog.String("addr", req.GetAddress()))
	return &raftv1.ReadyResponse{Index: s.cfg.Store.Snapshot().Member(req.GetRaftId()).GetMeta().GetVersion()}, nil
}

// Move records the address a manager has come back at.
func (s *Server) Move(ctx context.Context, req *raftv1.MoveRequest) (*raftv1.MoveResponse, error) {
	n, err := s.wants(ctx, "record a manager's address")
	if err != nil {
		return nil, err
	}
	node, err := id.FromBytes(n.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.Moved(ctx, node, req.GetRaftId(), req.GetAddress()); err != nil {
		return nil, err
	}
	return &raftv1.MoveResponse{}, nil
}

// Moved records where a node's member is reached from now on.
func (s *Server) Moved(ctx context.Context, node id.ID, raftID uint64, address string) error {
	s.change.Lock() // the whole record is written: not beside a change of the group
	defer s.change.Unlock()
	m := s.cfg.Store.Snapshot().MemberByNode(node)
	if m == nil || m.GetRaftId() != raftID {
		return rpc.Errorf(errdefs.ErrFailedPrecondition, "record the address of node %s: it is not the member it says", node)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "record the address of node %s: %q is not host:port", node, address)
	}
	if m.GetAddress() == address {
		return nil
	}
	moved := proto.CloneOf(m)
	moved.Address = address
	tx, err := encode(s.by(ctx), putMember(moved))
	if err != nil {
		return err
	}
	if err := s.cfg.Commit(ctx, tx); err != nil {
		return fmt.Errorf("record the address of node %s: %w", node, err)
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "manager moved", slog.String("node", node.String()), slog.String("addr", address))
	return nil
}

// Leave takes the caller out of the group because it leaves the swarm.
func (s *Server) Leave(ctx context.Context, _ *raftv1.LeaveRequest) (*raftv1.LeaveResponse, error) {
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return nil, rpc.Errorf(errdefs.ErrPermissionDenied, "leave the managers: caller is not a node")
	}
	s.change.Lock()
	defer s.change.Unlock()
	m := s.cfg.Store.Snapshot().MemberByNode(caller.Node)
	if m == nil {
		return &raftv1.LeaveResponse{}, nil
	}
	ctx, stop := context.WithTimeout(ctx, changeTimeout)
	defer stop()
	if err := s.remove(ctx, m); err != nil {
		return nil, fmt.Errorf("leave the managers: node %s: %w", caller.Node, err)
	}
	return &raftv1.LeaveResponse{}, nil
}

func putMember(m *modelv1.Member) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: m}}
}

func putRole(node []byte, role modelv1.Role) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_NodeRole{NodeRole: &logv1.NodeRole{Node: node, Role: role}}}
}

// by says who asks for what is done with ctx; nil if nobody does.
func (s *Server) by(ctx context.Context) *logv1.Deed {
	if s.cfg.By == nil {
		return nil
	}
	return s.cfg.By(ctx)
}

// encode makes a transaction that expects nothing, so that it cannot conflict.
func encode(by *logv1.Deed, ops ...*logv1.Operation) ([]byte, error) {
	b, err := proto.Marshal(&logv1.Transaction{Units: []*logv1.Unit{{Operations: ops}}, Deed: by})
	if err != nil {
		return nil, fmt.Errorf("encode a membership change: %w", err)
	}
	return b, nil
}
