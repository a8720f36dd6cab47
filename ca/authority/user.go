package authority

import (
	"context"
	"log/slog"
	"time"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// PrepareUser returns the record of a user's certificate: the first of the three
// steps. Whether he may have one is the API's to say.
func (s *Server) PrepareUser(ctx context.Context, p ca.UserProfile, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error) {
	_, is, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return is.PrepareUser(p, key, now)
}

// SignUser signs what was recorded for a user, and returns the roots to trust
// with it.
func (s *Server) SignUser(ctx context.Context, p ca.UserProfile, record *modelv1.Certificate, csr []byte) (chain, roots [][]byte, err error) {
	cluster, is, err := s.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if chain, err = s.signUser(ctx, cluster, is, p, record, csr); err != nil {
		return nil, nil, err
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "user certified", slog.String("user", "user:"+p.Name), slog.Uint64("generation", record.GetGeneration()))
	return chain, is.Roots().DER(), nil
}
