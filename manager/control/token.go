package control

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What a join token is where nothing is said, and may be at most.
const (
	defaultTokenTTL = time.Hour
	maxTokenTTL     = 366 * 24 * time.Hour
	minTokenTTL     = time.Second
	maxTokenUses    = 1000
	maxTokenNets    = 64
	maxDescription  = 512
	// maxTokens bounds those that let nodes in; more are refused. Those that are
	// over are enrol.Keep's to forget.
	maxTokens = 1000
)

// token returns the join token that ref names.
func token(snap *store.Snapshot, ref string) (*modelv1.JoinToken, error) {
	if ref == "" {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "a token must be named")
	}
	var f found[*modelv1.JoinToken]
	for t := range snap.Tokens() {
		f.look(t, idOf(t.GetId()), ref)
	}
	return f.one("token", ref)
}

// shown is a token as it is told: nobody needs its secret's hash.
func shown(t *modelv1.JoinToken) *modelv1.JoinToken {
	t = proto.CloneOf(t)
	t.SecretHash = nil
	return t
}

// ListTokens shows all join tokens that are remembered, by id.
func (s *Server) ListTokens(context.Context, *controlv1.ListTokensRequest) (*controlv1.ListTokensResponse, error) {
	snap := s.snapshot()
	resp := &controlv1.ListTokensResponse{Now: now(snap)}
	for t := range snap.Tokens() {
		resp.Tokens = append(resp.Tokens, shown(t))
	}
	return resp, nil
}

// GetToken shows one join token and whom it let in.
func (s *Server) GetToken(_ context.Context, msg *controlv1.GetTokenRequest) (*controlv1.GetTokenResponse, error) {
	snap := s.snapshot()
	t, err := token(snap, msg.GetRef())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetTokenResponse{Token: shown(t), Now: now(snap)}, nil
}

// CreateToken makes a join token for a secret that only the client knows.
func (s *Server) CreateToken(ctx context.Context, msg *controlv1.CreateTokenRequest) (*controlv1.CreateTokenResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if err := checkNewToken(msg); err != nil {
		return nil, err
	}
	x := id.New()
	a, err := s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		if err := s.noTokens(c); err != nil {
			return err
		}
		if err := roomForToken(tx.Snapshot); err != nil {
			return err
		}
		return tx.PutToken(newToken(x, c, msg, req.GetCaller(), now(tx.Base())))
	}, x)
	if err != nil {
		return nil, err
	}
	snap := s.snapshot()
	t := snap.Token(a.first())
	if t == nil {
		return nil, rpc.Errorf(errdefs.ErrNotFound, "token %s was forgotten meanwhile", a.first())
	}
	return &controlv1.CreateTokenResponse{Token: shown(t), Address: s.joinAddress(snap), Fips: snap.Cluster().GetFips()}, nil
}

func checkNewToken(msg *controlv1.CreateTokenRequest) error {
	var f faults
	f.check(len(msg.GetSecretHash()) == sha256.Size, "secret hash of %d bytes: want %d", len(msg.GetSecretHash()), sha256.Size)
	f.check(msg.GetRole() == manager || msg.GetRole() == worker, "role: want worker or manager")
	ttl := time.Duration(msg.GetTtl())
	f.check(ttl == 0 || ttl >= minTokenTTL && ttl <= maxTokenTTL, "ttl %v: want %v to %v", ttl, minTokenTTL, maxTokenTTL)
	f.check(msg.GetUses() <= maxTokenUses, "uses %d: want 1 to %d", msg.GetUses(), maxTokenUses)
	f.check(len(msg.GetDescription()) <= maxDescription && printable(msg.GetDescription()),
		"description: longer than %d bytes or cannot be printed", maxDescription)
	_, err := path.Match(msg.GetName(), "")
	f.check(err == nil && len(msg.GetName()) <= maxDescription && printable(msg.GetName()),
		"name %q: want a pattern such as web-* or rack[12]-?", cut(msg.GetName()))
	f.check(len(msg.GetFrom()) <= maxTokenNets, "from: %d networks, at most %d", len(msg.GetFrom()), maxTokenNets)
	for _, n := range msg.GetFrom() {
		p, err := netip.ParsePrefix(n)
		f.check(err == nil && p == p.Masked() && !p.Addr().Is4In6(), "from %q: want a network such as 10.1.0.0/16", cut(n))
	}
	f.labels("label", msg.GetLabels())
	return f.refusal("token")
}

func roomForToken(snap *store.Snapshot) error {
	live := 0
	for t := range snap.Tokens() {
		if t.GetEnd() == 0 {
			live++
		}
	}
	if live < maxTokens {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrResourceExhausted, "there are %d join tokens, and no more are made", live),
		"revoke some that are not needed: ctl swarm token revoke TOKEN")
}

func newToken(x id.ID, c *modelv1.Cluster, msg *controlv1.CreateTokenRequest, by string, at int64) *modelv1.JoinToken {
	t := &modelv1.JoinToken{
		Id: x.Bytes(), SecretHash: msg.GetSecretHash(), Role: msg.GetRole(), Description: msg.GetDescription(),
		Uses: max(1, msg.GetUses()), Name: msg.GetName(), From: msg.GetFrom(), Labels: msg.GetLabels(), Approve: msg.GetApprove(),
		CreatedBy: by, History: c.GetHistory(), ExpiresAt: at + int64(defaultTokenTTL),
	}
	if msg.GetTtl() != 0 {
		t.ExpiresAt = at + msg.GetTtl()
	}
	if root := store.PinnedRoot(c.GetRoot()); root != nil {
		digest := ca.RootDigest(root)
		t.Root = digest[:]
	}
	return t
}

// RevokeToken ends a join token. Nodes that still wait because of it are sent
// away; those it let in stay.
func (s *Server) RevokeToken(ctx context.Context, msg *controlv1.RevokeTokenRequest) (*controlv1.RevokeTokenResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.RevokeTokenResponse{Id: a.first().Bytes()}, err
	}
	t, err := token(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(t.GetId())
	_, err = s.change(ctx, req, func(tx *store.Tx) error { return revoke(tx, x, req.GetCaller(), "revoked by "+req.GetCaller()) }, x)
	return &controlv1.RevokeTokenResponse{Id: x.Bytes()}, err
}

func revoke(tx *store.Tx, x id.ID, by, reason string) error {
	old := tx.Token(x)
	if old == nil {
		return rpc.Errorf(errdefs.ErrNotFound, "token %s not found", x)
	}
	t := proto.CloneOf(old)
	for _, u := range t.GetUsed() {
		if u.GetVerdict() != modelv1.TokenVerdict_TOKEN_VERDICT_PENDING {
			continue
		}
		u.Verdict, u.DecidedBy = modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED, by
		if err := tx.Delete(store.KindNode, u.GetNode()); err != nil {
			return err
		}
	}
	if t.GetEnd() == 0 {
		t.End, t.EndedAt, t.EndReason = modelv1.TokenEnd_TOKEN_END_REVOKED, now(tx.Base()), reason
	}
	if proto.Equal(old, t) {
		return nil
	}
	return tx.PutToken(t)
}
