package node

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// firstRoot is the root of a new swarm: it is made, or it is the one that req names,
// whose external CAs are tried before anything is written.
func (n *Node) firstRoot(ctx context.Context, cluster id.ID, req *localv1.InitRequest, now time.Time) (*modelv1.RootCA, error) {
	if len(req.GetExternal()) == 0 {
		der, key, err := issue.NewRoot(cluster, now)
		return &modelv1.RootCA{Certificates: [][]byte{der}, Key: key.Reveal()}, err
	}
	root := &modelv1.RootCA{Certificates: [][]byte{req.GetRoot()}, External: req.GetExternal(), Given: true}
	if err := checkExternal(root, now); err != nil {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "%v", err)
	}
	issuer, err := issuerOf(root)
	if err != nil {
		return nil, err
	}
	c := external.New(external.Config{Dial: n.cfg.Outside.dial()})
	for _, at := range root.GetExternal() {
		_, err := issuer.Try(cluster, func(r modelv1.Role) time.Duration { return ca.Lifetime(r, req.GetSpec()) }, now, func(o ca.Order, take func([]byte) error) error {
			return c.Trial(ctx, at, req.GetRoot(), o, take)
		})
		if err != nil {
			return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "%v", err)
		}
	}
	return root, nil
}

// checkExternal refuses what cannot be a swarm's root, or where it signs.
func checkExternal(root *modelv1.RootCA, now time.Time) error {
	if n := len(root.GetExternal()); n > ca.MaxExternal {
		return fmt.Errorf("%d external CAs: at most %d", n, ca.MaxExternal)
	}
	for _, at := range root.GetExternal() {
		if err := ca.CheckExternal(at.GetUrl()); err != nil {
			return fmt.Errorf("external CA: %w", err)
		}
	}
	return issue.CheckOutside(root.GetCertificates()[0], now)
}

func issuerOf(root *modelv1.RootCA) (issuer *issue.Issuer, err error) {
	if len(root.GetExternal()) > 0 {
		issuer, err = issue.Outside(root.GetCertificates())
	} else {
		issuer, err = issue.New(root.GetCertificates(), sealed.NewSecret(root.GetKey()))
	}
	if err != nil {
		return nil, err
	}
	return issuer.Via(root.GetVia())
}

// certify has a prepared certificate signed, and returns it and its record as it is
// then.
func (n *Node) certify(ctx context.Context, p ca.Profile, root *modelv1.RootCA, issuer *issue.Issuer, record *modelv1.Certificate, csr []byte) (chain [][]byte, _ *modelv1.Certificate, err error) {
	if !issuer.IsOutside() {
		chain, err = issuer.Sign(p.Cluster, p.Node, record, csr)
		return chain, record, err
	}
	o, err := issuer.Order(p.Cluster, p.Node, record, csr)
	if err != nil {
		return nil, nil, err
	}
	// It has no certificate to show: an external CA that wants one is not asked here.
	c := external.New(external.Config{Dial: n.cfg.Outside.dial()})
	var settled *modelv1.Certificate
	err = c.Sign(ctx, root.GetExternal(), root.GetCertificates()[0], o, func(der []byte) (err error) {
		chain, settled, err = issuer.Accept(p.Cluster, p.Node, record, der, time.Now())
		return err
	})
	return chain, settled, err
}
