package authority

import (
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// NextRoot returns the root that is to follow another in a cluster, and what leads
// to it from the roots before: it is made, or it is the given one if that may be a
// root. Nothing is recorded and nothing signed with it but for a trial.
func (s *Server) NextRoot(cluster id.ID, from *modelv1.RootKey, given *modelv1.RootKey, now time.Time) (to *modelv1.RootKey, cross []byte, err error) {
	to = given
	if to == nil {
		der, key, err := issue.NextRoot(cluster, now)
		if err != nil {
			return nil, nil, err
		}
		to = &modelv1.RootKey{Certificate: der, Key: key.Reveal()}
	}
	key := sealed.NewSecret(to.GetKey())
	if err := issue.CheckRoot(to.GetCertificate(), key, now); err != nil {
		return nil, nil, err
	}
	if cross, err = issue.Cross(from.GetCertificate(), sealed.NewSecret(from.GetKey()), to.GetCertificate()); err != nil {
		return nil, nil, err
	}
	if err := issue.Leads(from.GetCertificate(), [][]byte{cross}, to.GetCertificate(), key, now); err != nil {
		return nil, nil, fmt.Errorf("what it signs would not be verified by who trusts the present root: %w", err)
	}
	// Roots before from: as many as still lead here.
	formers := []ca.Former{{Root: from.GetCertificate(), Cross: cross}}
	for _, f := range ca.Formers(from.GetVia()) {
		longer := append(slices.Clone(formers), f)
		if len(longer) > issue.MaxFormer || issue.Leads(f.Root, ca.Via(longer), to.GetCertificate(), key, now) != nil {
			break
		}
		formers = longer
	}
	to.Via = ca.Via(formers)
	return to, cross, nil
}
