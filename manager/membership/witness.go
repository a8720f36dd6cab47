package membership

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// Witness has what another manager saw written into the audit trail.
func (s *Server) Witness(ctx context.Context, req *raftv1.WitnessRequest) (*raftv1.WitnessResponse, error) {
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return nil, rpc.Errorf(errdefs.ErrPermissionDenied, "write into the audit trail: caller is not a node")
	}
	if s.cfg.Record == nil {
		return nil, rpc.Errorf(errdefs.ErrNotImplemented, "write into the audit trail: nothing is recorded here")
	}
	if err := s.cfg.Record(ctx, caller.Node, req.GetSights()); err != nil {
		return nil, err
	}
	return &raftv1.WitnessResponse{}, nil
}
