package clitest

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func among(digits []string, id []byte) bool {
	return len(digits) == 0 || slices.Contains(digits, show.ID(id))
}

// Info implements the Local service.
func (s *Swarm) Info(context.Context, *localv1.InfoRequest) (*localv1.InfoResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Daemon, s.fail("Info")
}

// Init implements the Local service.
func (s *Swarm) Init(_ context.Context, q *localv1.InitRequest) (*localv1.InitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Daemon.GetState() == localv1.State_STATE_ACTIVE && !q.GetForceNewCluster() {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is already part of a swarm"),
			`"ctl swarm leave" takes it out`)
	}
	return &localv1.InitResponse{Node: ID("dev01"), WorkerToken: WorkerToken, Address: "192.0.2.1:2377"}, s.fail("Init")
}

// Join implements the Local service.
func (s *Swarm) Join(_ context.Context, q *localv1.JoinRequest) (*localv1.JoinResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("Join"); err != nil {
		return nil, err
	}
	switch q.GetToken() {
	case WorkerToken:
		return &localv1.JoinResponse{Node: ID("new"), Role: modelv1.Role_ROLE_WORKER}, nil
	case ManagerToken:
		return &localv1.JoinResponse{Node: ID("new"), Role: modelv1.Role_ROLE_MANAGER}, nil
	}
	return nil, rpc.Errorf(errdefs.ErrPermissionDenied, "join: the swarm does not know this token")
}

// Leave implements the Local service.
func (s *Swarm) Leave(_ context.Context, q *localv1.LeaveRequest) (*localv1.LeaveResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Daemon.GetRole() == modelv1.Role_ROLE_MANAGER && !q.GetForce() {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is a manager"), `demote it first, or use --force`)
	}
	return &localv1.LeaveResponse{}, s.fail("Leave")
}
