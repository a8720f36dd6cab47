package authority

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// signNode signs the recorded certificate of a node, and returns its chain and the
// record as it is then. What an external CA has signed is judged, and recorded as it
// is, before it leaves. Nothing is held while that CA is waited for.
func (s *Server) signNode(ctx context.Context, cluster Cluster, is *issue.Issuer, node id.ID, record *modelv1.Certificate, csr []byte) ([][]byte, *modelv1.Certificate, error) {
	if !is.IsOutside() {
		chain, err := is.Sign(cluster.ID, node, record, csr)
		return chain, record, err
	}
	o, err := is.Order(cluster.ID, node, record, csr)
	if err != nil {
		return nil, nil, err
	}
	var chain [][]byte
	var settled *modelv1.Certificate
	err = s.order(ctx, cluster.External, cluster.Roots[0], o, func(der []byte) (err error) {
		chain, settled, err = is.Accept(cluster.ID, node, record, der, time.Now())
		return err
	})
	if err == nil {
		err = s.members.SettleNode(ctx, node, settled)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of node %s: %w", node, err)
	}
	return chain, settled, nil
}

// signUser is signNode for a user.
func (s *Server) signUser(ctx context.Context, cluster Cluster, is *issue.Issuer, p ca.UserProfile, record *modelv1.Certificate, csr []byte) ([][]byte, error) {
	if !is.IsOutside() {
		return is.SignUser(p, record, csr)
	}
	o, err := is.OrderUser(p, record, csr)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	var settled *modelv1.Certificate
	err = s.order(ctx, cluster.External, cluster.Roots[0], o, func(der []byte) (err error) {
		chain, settled, err = is.AcceptUser(p, record, der, time.Now())
		return err
	})
	if err == nil {
		err = s.members.SettleUser(ctx, p.User, settled)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate of user %s: %w", p.Name, err)
	}
	return chain, nil
}

func (s *Server) order(ctx context.Context, cas []*modelv1.ExternalCA, root []byte, o ca.Order, take func(der []byte) error) error {
	if s.outside == nil {
		return errNobodyAsks()
	}
	return s.outside.Sign(ctx, cas, root, o, take)
}

func errNobodyAsks() error {
	return rpc.Errorf(errdefs.ErrUnavailable, "nothing here asks the external CA")
}

// TryOutside has each of a root's external CAs sign by itself for a node and a user that
// there are not, and returns an error that names the first that does not do it as asked.
// via is what leads to the root.
func (s *Server) TryOutside(ctx context.Context, cluster id.ID, spec *modelv1.ClusterSpec, root *modelv1.RootKey, via [][]byte) (issue.Trial, error) {
	is, err := issue.Outside([][]byte{root.GetCertificate()})
	if err != nil {
		return issue.Trial{}, err
	}
	if is, err = is.Via(via); err != nil {
		return issue.Trial{}, err
	}
	if s.outside == nil {
		return issue.Trial{}, errNobodyAsks()
	}
	var out issue.Trial
	for _, at := range root.GetExternal() {
		out, err = is.Try(cluster, func(r modelv1.Role) time.Duration { return ca.Lifetime(r, spec) }, time.Now(), func(o ca.Order, take func([]byte) error) error {
			return s.outside.Trial(ctx, at, root.GetCertificate(), o, take)
		})
		if err != nil {
			return issue.Trial{}, err
		}
	}
	return out, nil
}
