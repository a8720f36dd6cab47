package membership

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// member returns the caller if it is a member of the group that is to stay one.
func (s *Server) member(ctx context.Context, doing string) (id.ID, error) {
	n, err := s.wants(ctx, doing)
	if err != nil {
		return id.ID{}, err
	}
	node, err := id.FromBytes(n.GetId())
	if err != nil {
		return id.ID{}, err
	}
	if s.cfg.Store.Snapshot().MemberByNode(node) == nil {
		return id.ID{}, rpc.Errorf(errdefs.ErrPermissionDenied, "%s: node %s is not a member of the managers", doing, node)
	}
	return node, nil
}

// Ring gives a member the data keys that this manager holds.
func (s *Server) Ring(ctx context.Context, _ *raftv1.RingRequest) (*raftv1.RingResponse, error) {
	if _, err := s.member(ctx, "get the data keys"); err != nil {
		return nil, err
	}
	c := s.cfg.Store.Snapshot().Cluster()
	return &raftv1.RingResponse{Ring: s.cfg.Ring(), UnlockKey: c.GetUnlockKey(), UnlockNumber: c.GetUnlockNumber()}, nil
}

// Kept records what a member holds.
func (s *Server) Kept(ctx context.Context, req *raftv1.KeptRequest) (*raftv1.KeptResponse, error) {
	node, err := s.member(ctx, "record the keys of a manager")
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Kept(ctx, node, req); err != nil {
		return nil, err
	}
	return &raftv1.KeptResponse{}, nil
}
