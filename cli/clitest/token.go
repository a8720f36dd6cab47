package clitest

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// AddTokens gives the swarm a token that is active and one that is used, and a
// node that waits to be accepted.
func (s *Swarm) AddTokens() *Swarm {
	root := sha256.Sum256([]byte("root"))
	s.Tokens = []*modelv1.JoinToken{
		{Meta: &modelv1.Meta{CreatedAt: Ago(10 * time.Minute)}, Id: ID("rack"), Role: modelv1.Role_ROLE_WORKER, Uses: 3,
			Description: "rack 7", ExpiresAt: Ago(-50 * time.Minute), CreatedBy: "user:uid:0", From: []string{"192.0.2.0/24"}, Root: root[:],
			Labels: map[string]string{"zone": "a"}, Approve: true,
			Used: []*modelv1.TokenUse{{Node: ID("dev20"), Hostname: "dev20", From: "192.0.2.20", At: Ago(time.Minute),
				Key: root[:], Verdict: modelv1.TokenVerdict_TOKEN_VERDICT_PENDING}}},
		{Meta: &modelv1.Meta{CreatedAt: Ago(24 * time.Hour)}, Id: ID("one"), Role: modelv1.Role_ROLE_MANAGER, Uses: 1,
			ExpiresAt: Ago(23 * time.Hour), CreatedBy: "user:alice", End: modelv1.TokenEnd_TOKEN_END_USED_UP, EndedAt: Ago(24 * time.Hour),
			Used: []*modelv1.TokenUse{{Node: ID("dev03"), Hostname: "dev03", From: "192.0.2.3", At: Ago(24 * time.Hour), Key: root[:]}}},
	}
	s.Nodes = append(s.Nodes, &controlv1.NodeView{Node: &modelv1.Node{Id: ID("dev20"), Membership: modelv1.Membership_MEMBERSHIP_PENDING,
		Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_WORKER, Availability: modelv1.Availability_AVAILABILITY_ACTIVE},
		Role: modelv1.Role_ROLE_WORKER, EnrolmentKey: root[:], Description: &modelv1.NodeDescription{Hostname: "dev20", Address: "192.0.2.20"}}})
	return s
}

func (s *Swarm) token(ref string) (*modelv1.JoinToken, error) {
	for _, t := range s.Tokens {
		if strings.HasPrefix(show.ID(t.GetId()), ref) {
			return t, nil
		}
	}
	return nil, rpc.Errorf(errdefs.ErrNotFound, "token %s not found", ref)
}

// CreateToken implements the Control service.
func (s *Swarm) CreateToken(_ context.Context, q *controlv1.CreateTokenRequest) (*controlv1.CreateTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := sha256.Sum256([]byte("root"))
	t := &modelv1.JoinToken{Meta: &modelv1.Meta{CreatedAt: Epoch.UnixNano()}, Id: ID("new"), Role: q.GetRole(), Uses: q.GetUses(),
		ExpiresAt: Epoch.UnixNano() + q.GetTtl(), Root: root[:], Description: q.GetDescription(), SecretHash: q.GetSecretHash(),
		Labels: q.GetLabels(), From: q.GetFrom(), Name: q.GetName(), Approve: q.GetApprove(), CreatedBy: "user:uid:0"}
	s.Tokens = append(s.Tokens, t)
	return &controlv1.CreateTokenResponse{Token: proto.CloneOf(t), Address: "192.0.2.1:2377"}, s.fail("CreateToken")
}

// ListTokens implements the Control service.
func (s *Swarm) ListTokens(context.Context, *controlv1.ListTokensRequest) (*controlv1.ListTokensResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &controlv1.ListTokensResponse{Tokens: slices.Clone(s.Tokens), Now: Epoch.UnixNano()}, s.fail("ListTokens")
}

// GetToken implements the Control service.
func (s *Swarm) GetToken(_ context.Context, q *controlv1.GetTokenRequest) (*controlv1.GetTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.token(q.GetRef())
	return &controlv1.GetTokenResponse{Token: proto.CloneOf(t), Now: Epoch.UnixNano()}, err
}

// RevokeToken implements the Control service.
func (s *Swarm) RevokeToken(_ context.Context, q *controlv1.RevokeTokenRequest) (*controlv1.RevokeTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.token(q.GetRef())
	if err != nil {
		return nil, err
	}
	t.End, t.EndReason = modelv1.TokenEnd_TOKEN_END_REVOKED, "revoked by user:uid:0"
	return &controlv1.RevokeTokenResponse{Id: t.GetId()}, s.fail("RevokeToken")
}

// AcceptNode implements the Control service.
func (s *Swarm) AcceptNode(_ context.Context, q *controlv1.AcceptNodeRequest) (*controlv1.AcceptNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.node(q.GetRef())
	if err != nil {
		return nil, err
	}
	was := n.GetNode().GetMembership()
	n.Node.Membership = modelv1.Membership_MEMBERSHIP_ACCEPTED
	return &controlv1.AcceptNodeResponse{Id: n.GetNode().GetId(), Unchanged: was == n.GetNode().GetMembership()}, s.fail("AcceptNode")
}

// RejectNode implements the Control service.
func (s *Swarm) RejectNode(_ context.Context, q *controlv1.RejectNodeRequest) (*controlv1.RejectNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.node(q.GetRef())
	if err != nil {
		return nil, err
	}
	s.Nodes = slices.DeleteFunc(s.Nodes, func(o *controlv1.NodeView) bool { return o == n })
	return &controlv1.RejectNodeResponse{Id: n.GetNode().GetId()}, s.fail("RejectNode")
}
