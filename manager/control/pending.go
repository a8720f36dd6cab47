package control

import (
	"bytes"
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	waiting  = modelv1.Membership_MEMBERSHIP_PENDING
	accepted = modelv1.Membership_MEMBERSHIP_ACCEPTED
)

// AcceptNode lets a node in that waits. Its certificate is made when it asks next.
func (s *Server) AcceptNode(ctx context.Context, msg *controlv1.AcceptNodeRequest) (*controlv1.AcceptNodeResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.AcceptNodeResponse{Id: a.first().Bytes()}, err
	}
	n, err := s.node(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x, unchanged := idOf(n.GetId()), false
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		n := tx.Node(x)
		if n == nil {
			return rpc.Errorf(errdefs.ErrNotFound, "node %s waits no more: it was rejected, or nobody accepted it in time", x)
		}
		if n.GetWait() != nil && n.GetMembership() != waiting {
			unchanged = n.GetWait().GetVerdict() == modelv1.RenewalWait_VERDICT_ACCEPTED
			return judge(tx, n, modelv1.RenewalWait_VERDICT_ACCEPTED, req.GetCaller())
		}
		if unchanged = n.GetMembership() != waiting; unchanged {
			return nil
		}
		n = proto.CloneOf(n)
		n.Membership = accepted
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return decide(tx, n, modelv1.TokenVerdict_TOKEN_VERDICT_UNSPECIFIED, req.GetCaller())
	}, x)
	return &controlv1.AcceptNodeResponse{Id: x.Bytes(), Unchanged: unchanged}, err
}

// RejectNode sends a node away that waits. The key it came with is not let in by
// the same token again.
func (s *Server) RejectNode(ctx context.Context, msg *controlv1.RejectNodeRequest) (*controlv1.RejectNodeResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.RejectNodeResponse{Id: a.first().Bytes()}, err
	}
	n, err := s.node(s.snapshot(), msg.GetRef())
	if errdefs.IsNotFound(err) {
		if x, was := rejected(s.snapshot(), msg.GetRef()); was {
			return &controlv1.RejectNodeResponse{Id: x.Bytes(), Unchanged: true}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	x := idOf(n.GetId())
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		n := tx.Node(x)
		if n.GetWait() != nil && n.GetMembership() != waiting {
			return judge(tx, n, modelv1.RenewalWait_VERDICT_REJECTED, req.GetCaller())
		}
		if n.GetMembership() != waiting {
			return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s does not wait to be accepted", msg.GetRef()),
				"take a node out with: ctl node rm "+msg.GetRef())
		}
		if err := decide(tx, n, modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED, req.GetCaller()); err != nil {
			return err
		}
		return tx.Delete(store.KindNode, x.Bytes())
	}, x)
	return &controlv1.RejectNodeResponse{Id: x.Bytes()}, err
}

// judge notes whether a node gets the certificate that it waits for.
func judge(tx *store.Tx, n *modelv1.Node, verdict modelv1.RenewalWait_Verdict, by string) error {
	if n.GetWait().GetVerdict() == verdict {
		return nil
	}
	n = proto.CloneOf(n)
	n.Wait.Verdict, n.Wait.DecidedBy = verdict, by
	return tx.PutNode(n)
}

// decide notes at the token that a node came with what became of it.
func decide(tx *store.Tx, n *modelv1.Node, verdict modelv1.TokenVerdict, by string) error {
	t := tx.TokenByHash(n.GetTokenHash())
	if t == nil {
		return nil // it is forgotten already
	}
	t = proto.CloneOf(t)
	for _, u := range t.GetUsed() {
		if bytes.Equal(u.GetNode(), n.GetId()) {
			u.Verdict, u.DecidedBy = verdict, by
		}
	}
	return tx.PutToken(t)
}

// rejected finds the node that a token remembers as rejected.
func rejected(snap *store.Snapshot, ref string) (x id.ID, found bool) {
	for t := range snap.Tokens() {
		for _, u := range t.GetUsed() {
			x := idOf(u.GetNode())
			named := strings.HasPrefix(x.String(), ref) || u.GetHostname() == ref
			if named && u.GetVerdict() == modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED {
				return x, true
			}
		}
	}
	return id.ID{}, false
}
