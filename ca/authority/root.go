package authority

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Succession is a root that is to follow another.
type Succession struct {
	Cluster id.ID
	Spec    *modelv1.ClusterSpec
	From    *modelv1.RootKey
	// To is given by an operator, with its key or with where it signs. Nil: it is made.
	To *modelv1.RootKey
	// Cross is To as certified by From, DER. It is made if From's key is here, and has to
	// be given if it is not.
	Cross []byte
}

// NextRoot returns the root that is to follow another in a cluster, and what leads
// to it from the roots before: it is made, or it is the given one if that may be a
// root. Nothing is recorded and nothing signed with it but for a trial.
func (s *Server) NextRoot(ctx context.Context, n Succession, now time.Time) (to *modelv1.RootKey, cross []byte, err error) {
	to = n.To
	if to == nil {
		der, key, err := issue.NextRoot(n.Cluster, now)
		if err != nil {
			return nil, nil, err
		}
		to = &modelv1.RootKey{Certificate: der, Key: key.Reveal()}
	}
	if err := fit(to, now); err != nil {
		return nil, nil, err
	}
	if cross, err = crossOf(n, to); err != nil {
		return nil, nil, err
	}
	leads, err := s.try(ctx, n, to, cross, now)
	if err != nil {
		return nil, nil, err
	}
	if err := leads(n.From.GetCertificate(), [][]byte{cross}); err != nil {
		return nil, nil, fmt.Errorf("what it signs would not be verified by who trusts the present root: %w", err)
	}
	// Roots before from: as many as still lead here.
	formers := []ca.Former{{Root: n.From.GetCertificate(), Cross: cross}}
	for _, f := range ca.Formers(n.From.GetVia()) {
		longer := append(slices.Clone(formers), f)
		if len(longer) > issue.MaxFormer || leads(f.Root, ca.Via(longer)) != nil {
			break
		}
		formers = longer
	}
	to.Via = ca.Via(formers)
	return to, cross, nil
}

// fit returns an error if a root cannot be a cluster's.
func fit(to *modelv1.RootKey, now time.Time) error {
	if len(to.GetExternal()) > 0 {
		return issue.CheckOutside(to.GetCertificate(), now)
	}
	return issue.CheckRoot(to.GetCertificate(), sealed.NewSecret(to.GetKey()), now)
}

// leads returns an error unless what a root signs is verified by who trusts only the
// root from, with the certificates via.
type leads func(from []byte, via [][]byte) error

// try has the next root sign, if an external CA has its key, and returns how to find out
// who verifies what it signs.
func (s *Server) try(ctx context.Context, n Succession, to *modelv1.RootKey, cross []byte, now time.Time) (leads, error) {
	if len(to.GetExternal()) == 0 {
		key := sealed.NewSecret(to.GetKey())
		return func(from []byte, via [][]byte) error { return issue.Leads(from, via, to.GetCertificate(), key, now) }, nil
	}
	trial, err := s.TryOutside(ctx, n.Cluster, n.Spec, to, [][]byte{cross})
	return func(from []byte, via [][]byte) error { return trial.Leads(from, via, now) }, err
}

// crossOf is the next root as certified by the one before.
func crossOf(n Succession, to *modelv1.RootKey) ([]byte, error) {
	switch {
	case len(n.Cross) > 0:
		return n.Cross, issue.CheckCross(n.From.GetCertificate(), to.GetCertificate(), n.Cross)
	case len(n.From.GetKey()) > 0:
		return issue.Cross(n.From.GetCertificate(), sealed.NewSecret(n.From.GetKey()), to.GetCertificate())
	}
	return nil, errors.New("the key of the present root is not in the swarm: have who keeps it certify the next one, and give that, the certificate and where it signs: --ca-cert FILE --cross-cert FILE with --ca-key FILE or --external-ca")
}
