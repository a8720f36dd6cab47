package clitest

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// WorkerToken and ManagerToken are the tokens of the fake.
const (
	WorkerToken  = "SWMTKN-1-" + digest + "-" + "6aj42alvbpqb0y9zzxgy127ko"
	ManagerToken = "SWMTKN-1-" + digest + "-" + "0j42alvbpqb0y9zzxgy127koa"
	digest       = "0zq5k1zwxqo8hills9d3ezxu2dzxwuy3t2dcz4vdc1kj01saiy"
)

// find returns the one object that ref means.
func find[T any](kind string, all []T, ref string, name func(T) []string) (none T, err error) {
	var named, prefixed []T
	for _, o := range all {
		names := name(o)
		switch {
		case slices.Contains(names, ref):
			named = append(named, o)
		case strings.HasPrefix(names[0], ref):
			prefixed = append(prefixed, o)
		}
	}
	for _, list := range [][]T{named, prefixed} {
		if len(list) == 1 {
			return list[0], nil
		}
		if len(list) > 1 {
			return none, rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "%s %s is ambiguous (%d matches found)", kind, ref, len(list)),
				"use a whole id, or a longer part of it")
		}
	}
	return none, rpc.Errorf(errdefs.ErrNotFound, "%s %s not found", kind, ref)
}

func (s *Swarm) node(ref string) (*controlv1.NodeView, error) {
	return find("node", s.Nodes, ref, func(n *controlv1.NodeView) []string {
		names := []string{show.ID(n.GetNode().GetId()), n.GetNode().GetDescription().GetHostname()}
		if n.GetSelf() {
			names = append(names, "self")
		}
		return names
	})
}

func (s *Swarm) service(ref string) (*controlv1.ServiceView, error) {
	return find("service", s.Services, ref, func(v *controlv1.ServiceView) []string {
		return []string{show.ID(v.GetService().GetId()), v.GetService().GetSpec().GetName()}
	})
}

// GetCluster implements the Control service.
func (s *Swarm) GetCluster(context.Context, *controlv1.GetClusterRequest) (*controlv1.GetClusterResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Cluster, s.fail("GetCluster")
}

// UpdateCluster implements the Control service.
func (s *Swarm) UpdateCluster(_ context.Context, q *controlv1.UpdateClusterRequest) (*controlv1.UpdateClusterResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("UpdateCluster"); err != nil {
		return nil, err
	}
	s.Cluster = proto.CloneOf(s.Cluster)
	s.Cluster.Cluster.Spec = q.GetSpec()
	return &controlv1.UpdateClusterResponse{Cluster: s.Cluster.GetCluster()}, nil
}

// GetJoinToken implements the Control service.
func (s *Swarm) GetJoinToken(_ context.Context, q *controlv1.GetJoinTokenRequest) (*controlv1.GetJoinTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &controlv1.GetJoinTokenResponse{Token: token(q.GetRole()), Address: "192.0.2.1:2377"}, s.fail("GetJoinToken")
}

func token(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return ManagerToken
	}
	return WorkerToken
}

// RotateJoinToken implements the Control service.
func (s *Swarm) RotateJoinToken(_ context.Context, q *controlv1.RotateJoinTokenRequest) (*controlv1.RotateJoinTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &controlv1.RotateJoinTokenResponse{Token: token(q.GetRole()), Address: "192.0.2.1:2377"}, s.fail("RotateJoinToken")
}

// ListNodes implements the Control service; it filters by name and role.
func (s *Swarm) ListNodes(_ context.Context, q *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &controlv1.ListNodesResponse{Clock: Epoch.UnixNano()}
	for _, n := range s.Nodes {
		f := q.GetFilter()
		named := len(f.GetNames()) == 0 || slices.ContainsFunc(f.GetNames(), func(p string) bool {
			return strings.HasPrefix(n.GetNode().GetDescription().GetHostname(), p)
		})
		if named && (len(f.GetRoles()) == 0 || slices.Contains(f.GetRoles(), n.GetNode().GetRole())) {
			resp.Nodes = append(resp.Nodes, proto.CloneOf(n))
		}
	}
	return resp, s.fail("ListNodes")
}

// GetNode implements the Control service.
func (s *Swarm) GetNode(_ context.Context, q *controlv1.GetNodeRequest) (*controlv1.GetNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("GetNode"); err != nil {
		return nil, err
	}
	n, err := s.node(q.GetRef())
	if m := n.GetManager(); m != nil && !m.GetVoter() {
		s.Learning--
		m.Voter = s.Learning == 0
	}
	if n.GetManager() != nil && n.GetNode().GetRole() == modelv1.Role_ROLE_WORKER {
		if s.Staying--; s.Staying <= 0 {
			n.Manager = nil
		}
	}
	return &controlv1.GetNodeResponse{Node: proto.CloneOf(n), Clock: Epoch.UnixNano()}, err
}

// UpdateNode implements the Control service. A new role is there at once.
func (s *Swarm) UpdateNode(_ context.Context, q *controlv1.UpdateNodeRequest) (*controlv1.UpdateNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("UpdateNode"); err != nil {
		return nil, err
	}
	n, err := s.node(q.GetRef())
	if err != nil {
		return nil, err
	}
	resp := &controlv1.UpdateNodeResponse{Unchanged: q.Role != nil && n.Node.Role == q.GetRole()}
	if q.Role != nil && !resp.Unchanged {
		n.Node.Spec.Role, n.Node.Role = q.GetRole(), q.GetRole()
		if s.Staying == 0 {
			n.Manager = nil
		}
		if q.GetRole() == modelv1.Role_ROLE_MANAGER {
			n.Manager = &controlv1.ManagerStatus{Reachability: controlv1.ManagerStatus_REACHABILITY_REACHABLE, Voter: s.Learning == 0}
		}
	}
	if q.Availability != nil {
		n.Node.Spec.Availability = q.GetAvailability()
	}
	if q.GetRevoke() {
		n.Node.Revoked, n.Node.RevokedAt = n.Node.GetCurrent().GetGeneration(), Epoch.UnixNano()
	}
	if s.managers() == 2 {
		resp.Warnings = []string{"the swarm has two managers now: if either is lost, nobody can control it"}
	}
	s.wake()
	resp.Node = proto.CloneOf(n)
	resp.Node.Self = n.GetSelf() && !s.Follower
	return resp, nil
}

func (s *Swarm) managers() (count int) {
	for _, n := range s.Nodes {
		if n.GetManager() != nil {
			count++
		}
	}
	return count
}

// RemoveNode implements the Control service.
func (s *Swarm) RemoveNode(_ context.Context, q *controlv1.RemoveNodeRequest) (*controlv1.RemoveNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("RemoveNode"); err != nil {
		return nil, err
	}
	n, err := s.node(q.GetRef())
	if err != nil {
		return nil, err
	}
	if n.GetManager() != nil {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s is a manager", q.GetRef()),
			`demote it first: "ctl node demote `+q.GetRef()+`"`)
	}
	s.Nodes = slices.DeleteFunc(s.Nodes, func(o *controlv1.NodeView) bool { return o == n })
	s.wake()
	return &controlv1.RemoveNodeResponse{Id: n.Node.Id}, nil
}
