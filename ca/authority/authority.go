// Package authority is the certificate authority as a service: a token buys a
// node its first certificate, a certificate its next.
//
// It checks tokens and requests, limits how fast strangers may ask, and orders
// the steps: prepare, record, sign (D8). What is recorded is its Members' affair,
// an adapter over the cluster's state; how a leaf is made is issue's.
//
// Invariant: a certificate leaves only after the record that names its key,
// serial and generation was committed; the same key gets the same record (R17).
package authority

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"golang.org/x/time/rate"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const maxHostname = 253

// A Cluster is what the authority needs to know of the cluster of the moment.
type Cluster struct {
	ID id.ID
	// Roots is DER, the one that signs first; Key is its PKCS#8.
	Roots [][]byte
	Key   sealed.Secret
	// Via is what goes with each leaf, see modelv1.RootCA, and Former are the
	// digests of roots that are trusted no more and that tokens still pin.
	Via    [][]byte
	Former []ca.Digest
	// External is where the root signs if its key is nowhere here.
	External []*modelv1.ExternalCA
	Spec     *modelv1.ClusterSpec
	// WorkerToken and ManagerToken are the secrets of the standing tokens; zero
	// if there is none.
	WorkerToken  sealed.Secret
	ManagerToken sealed.Secret
	// FormerWorkerToken and FormerManagerToken are those that the clock has taken
	// the place of, as long as they still count.
	FormerWorkerToken  sealed.Secret
	FormerManagerToken sealed.Secret
	// FIPS: each node must say that it is in FIPS 140-3 mode.
	FIPS bool
}

// An Invitation is a join token that somebody showed.
type Invitation struct {
	// Role is what a standing token gives. UNSPECIFIED: it is none of those, and
	// whether it is a token at all is for Members to find.
	Role modelv1.Role
	// Hash is the SHA-256 of its secret; Pin the digest of the root it pins, and
	// Pinned whether that is one of the cluster's of now, or of lately.
	Hash   []byte
	Pin    ca.Digest
	Pinned bool
}

// An Enrolment is a machine that wants to come in.
type Enrolment struct {
	Invitation
	Key          ca.PublicKey
	Availability modelv1.Availability
	Hostname     string
	// Address is the host it asked from.
	Address string
	// FIPS: it says that it is in FIPS 140-3 mode.
	FIPS bool
}

// An Admission is what became of an enrolment.
type Admission struct {
	Node id.ID
	// Record is that of the node's certificate. Nil: an operator has to accept the
	// node first, until Expires (Unix nanoseconds of log time).
	Record  *modelv1.Certificate
	Expires int64
}

// A Renewal is a node that asks for its next certificate.
type Renewal struct {
	// Caller is what its present certificate proves.
	Caller ca.Identity
	Key    ca.PublicKey
	// Invitation is the join token that came with the request; nil if none did.
	Invitation *Invitation
	// Address is the host it asked from.
	Address string
}

// Prepare makes the record of a certificate; it may be called more than once for
// one request, and only the last answer is committed.
type Prepare func(node id.ID, role modelv1.Role, generation uint64, now time.Time) (*modelv1.Certificate, error)

// Members records who belongs to the cluster. Its methods return when what they
// say is committed.
type Members interface {
	Cluster(ctx context.Context) (Cluster, error)
	// Enrol returns the node and the certificate recorded for e's key: those it
	// finds, or those it makes with prepare. It refuses an invitation that is
	// neither standing nor made by an operator, or does not let e in (RefuseToken),
	// and then a machine that is not in FIPS 140-3 mode where the cluster asks for it.
	Enrol(ctx context.Context, e Enrolment, prepare Prepare) (Admission, error)
	// Renew returns the certificate recorded for r's key, the caller's next; none if
	// an operator has to allow it first.
	Renew(ctx context.Context, r Renewal, prepare Prepare) (Admission, error)
	// SettleNode and SettleUser record a certificate as an external CA has made it:
	// serial and times are its own. They refuse one that is not the holder's present
	// one any more.
	SettleNode(ctx context.Context, node id.ID, record *modelv1.Certificate) error
	SettleUser(ctx context.Context, user id.ID, record *modelv1.Certificate) error
	Managers() *cav1.ManagerList
}

// Outside has an external CA sign: the first of the CAs whose answer take accepts, or
// the one that is tried.
type Outside interface {
	Trial(ctx context.Context, at *modelv1.ExternalCA, root []byte, o ca.Order, take func(der []byte) error) error
	Sign(ctx context.Context, cas []*modelv1.ExternalCA, root []byte, o ca.Order, take func(der []byte) error) error
}

// Config configures a Server. The zero value of every field but Members and Log
// works.
type Config struct {
	// Members records. Required.
	Members Members
	// Outside asks external CAs. Nil: none is asked, and where one would have to be,
	// nothing is signed.
	Outside Outside
	// Self is the manager this is, for words.
	Self id.ID
	// PerAddress and Total limit Enroll, in requests a second; their bursts are
	// ten times that. Zero means 5 and 100.
	PerAddress rate.Limit
	Total      rate.Limit
	// PerNode limits Renew. Zero means one in two seconds, with bursts of five.
	PerNode rate.Limit
	// Log receives the authority's records. Required.
	Log *slog.Logger
}

// A Server serves skep.ca.v1.Authority on the leader.
type Server struct {
	cav1.UnimplementedAuthorityServer
	members   Members
	outside   Outside
	self      id.ID
	log       *slog.Logger
	strangers *limiter
	total     *rate.Limiter
	nodes     *limiter
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if cfg.Members == nil || cfg.Log == nil {
		return nil, errors.New("authority: members and log are needed")
	}
	if cfg.PerAddress == 0 {
		cfg.PerAddress = 5
	}
	if cfg.Total == 0 {
		cfg.Total = 100
	}
	if cfg.PerNode == 0 {
		cfg.PerNode = 0.5
	}
	return &Server{
		members: cfg.Members, outside: cfg.Outside, self: cfg.Self, log: cfg.Log,
		strangers: newLimiter(cfg.PerAddress, burst(cfg.PerAddress)),
		total:     rate.NewLimiter(cfg.Total, burst(cfg.Total)),
		nodes:     newLimiter(cfg.PerNode, 5),
	}, nil
}

func burst(l rate.Limit) int { return max(1, int(10*l)) }

// Enroll gives the bearer of a token a node and its first certificate.
func (s *Server) Enroll(ctx context.Context, req *cav1.EnrollRequest) (*cav1.EnrollResponse, error) {
	caller, _ := rpc.FromContext(ctx)
	host := hostOf(caller.Address)
	if !s.strangers.Allow(rpc.BucketOf(host)) || !s.total.Allow() {
		return nil, tooFast("enrol")
	}
	key, err := s.check(req)
	if err != nil {
		return nil, err
	}
	cluster, is, err := s.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	shown, err := read(cluster, is, req.GetToken())
	if err != nil {
		return nil, err
	}
	e := Enrolment{Invitation: *shown, Key: key, Availability: req.GetAvailability(), Hostname: req.GetHostname(), Address: host, FIPS: req.GetFips()}
	a, err := s.members.Enrol(ctx, e, s.inTime(req.GetClock(), prepare(cluster, is, key)))
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	if a.Record == nil {
		return &cav1.EnrollResponse{Pending: &cav1.Pending{
			Cluster: cluster.ID.Bytes(), Node: a.Node.Bytes(), Key: key.SHA256[:], ExpiresAt: a.Expires,
		}}, nil
	}
	issued, err := s.answer(ctx, cluster, is, a.Node, a.Record, req.GetCsr())
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "node enrolled", slog.String("node", a.Node.String()),
		slog.String("role", a.Record.GetRole().String()), slog.String("addr", host))
	return &cav1.EnrollResponse{Issued: issued}, nil
}

// check refuses what no node that is in order sends, before anything is looked up.
func (s *Server) check(req *cav1.EnrollRequest) (ca.PublicKey, error) {
	if _, err := ca.ParseToken(req.GetToken()); err != nil {
		return ca.PublicKey{}, RefuseToken(err)
	}
	key, err := ca.ParseCSR(req.GetCsr())
	if err != nil {
		return key, fmt.Errorf("enrol: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	name := req.GetHostname()
	if len(name) > maxHostname {
		return key, fmt.Errorf("enrol: hostname of %d bytes, at most %d: %w", len(name), maxHostname, errdefs.ErrInvalidArgument)
	}
	// It is shown to operators, on their terminals.
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return key, fmt.Errorf("enrol: hostname %q cannot be printed: %w", name, errdefs.ErrInvalidArgument)
	}
	return key, nil
}

// read returns what a token invites to. All standing tokens are compared, in
// constant time, whichever matches.
func read(cluster Cluster, is *issue.Issuer, text string) (*Invitation, error) {
	token, err := ca.ParseToken(text)
	if err != nil {
		return nil, RefuseToken(err)
	}
	hash := sha256.Sum256(token.Secret.Reveal())
	out := &Invitation{Hash: hash[:], Pin: token.Digest}
	_, out.Pinned = is.Roots().Find(token.Digest)
	out.Pinned = out.Pinned || slices.Contains(cluster.Former, token.Digest)
	if !out.Pinned {
		return out, nil
	}
	shows := func(standing sealed.Secret) bool { return !standing.IsZero() && standing.Equal(token.Secret) }
	worker, former := shows(cluster.WorkerToken), shows(cluster.FormerWorkerToken)
	manager, formerManager := shows(cluster.ManagerToken), shows(cluster.FormerManagerToken)
	switch {
	case manager || formerManager:
		out.Role = modelv1.Role_ROLE_MANAGER
	case worker || former:
		out.Role = modelv1.Role_ROLE_WORKER
	}
	return out, nil
}

// RefuseToken is the refusal of a join token: why completes "join token refused".
func RefuseToken(why error) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "join token refused: %v", why),
		`a manager prints the present one with "ctl swarm join-token worker" or "ctl swarm join-token manager", and makes others with "ctl swarm token create"`)
}

// UnknownToken is the refusal of a token that is none of this cluster's.
func UnknownToken(pinned bool) error {
	if !pinned {
		return RefuseToken(errors.New("it is of another cluster"))
	}
	return RefuseToken(errors.New("it is not one of the cluster's: it was rotated or mistyped, or is over for long"))
}

func tooFast(what string) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrResourceExhausted, "%s: too many requests", what), "wait a few seconds and try again")
}

// Renew gives a node its next certificate, for the role its record wants.
func (s *Server) Renew(ctx context.Context, req *cav1.RenewRequest) (*cav1.RenewResponse, error) {
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Kind != rpc.Node {
		return nil, fmt.Errorf("renew: only a node renews its certificate: %w", errdefs.ErrPermissionDenied)
	}
	// By the key as well: who has an old one, a thief or a clone, does not keep the
	// node from asking with its own.
	if !s.nodes.Allow(caller.Node.String() + string(caller.Identity.KeySHA256[:])) {
		return nil, tooFast("renew")
	}
	return s.renewFor(ctx, caller, req)
}

// renewFor gives the node that proved who the next certificate.
func (s *Server) renewFor(ctx context.Context, caller rpc.Caller, req *cav1.RenewRequest) (*cav1.RenewResponse, error) {
	who, csr := caller.Identity, req.GetCsr()
	key, err := ca.ParseCSR(csr)
	if err != nil {
		return nil, fmt.Errorf("renew: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	cluster, is, err := s.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	r := Renewal{Caller: who, Key: key, Address: hostOf(caller.Address)}
	if req.GetToken() != "" {
		if r.Invitation, err = read(cluster, is, req.GetToken()); err != nil {
			return nil, err
		}
	}
	a, err := s.members.Renew(ctx, r, prepare(cluster, is, key))
	if err != nil {
		return nil, fmt.Errorf("renew certificate of node %s: %w", who.Node, err)
	}
	record := a.Record
	if record == nil {
		return &cav1.RenewResponse{Pending: &cav1.Pending{Cluster: cluster.ID.Bytes(), Node: who.Node.Bytes(), Key: key.SHA256[:]}}, nil
	}
	issued, err := s.answer(ctx, cluster, is, who.Node, record, csr)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "certificate renewed", slog.String("node", who.Node.String()),
		slog.String("role", record.GetRole().String()), slog.Uint64("generation", record.GetGeneration()))
	return &cav1.RenewResponse{Issued: issued}, nil
}

func (s *Server) open(ctx context.Context) (Cluster, *issue.Issuer, error) {
	cluster, err := s.members.Cluster(ctx)
	if err != nil {
		return Cluster{}, nil, err
	}
	is, err := issuer(cluster)
	if err != nil {
		return Cluster{}, nil, err
	}
	is, err = is.Via(cluster.Via)
	return cluster, is, err
}

// issuer is that of a cluster's root, wherever its key is.
func issuer(cluster Cluster) (*issue.Issuer, error) {
	if len(cluster.External) > 0 {
		return issue.Outside(cluster.Roots)
	}
	return issue.New(cluster.Roots, cluster.Key)
}

func prepare(cluster Cluster, is *issue.Issuer, key ca.PublicKey) Prepare {
	return func(node id.ID, role modelv1.Role, generation uint64, now time.Time) (*modelv1.Certificate, error) {
		return is.Prepare(ca.Profile{Cluster: cluster.ID, Node: node, Role: role, Generation: generation,
			Lifetime: ca.Lifetime(role, cluster.Spec)}, key, now)
	}
}

// inTime has prepare refuse a certificate that would be of another time by the
// joiner's clock: nothing is recorded, and no token is used, for a host that could
// not begin with what it gets. 0: the joiner does not tell.
func (s *Server) inTime(clock int64, next Prepare) Prepare {
	return func(node id.ID, role modelv1.Role, generation uint64, now time.Time) (*modelv1.Certificate, error) {
		record, err := next(node, role, generation, now)
		if err != nil || clock == 0 || record.GetNotBefore() <= clock && clock < record.GetNotAfter() {
			return record, err
		}
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "%s", rpc.ClockWords(time.Unix(0, clock).Sub(now), s.self)), rpc.ClockHint)
	}
}

// answer signs what was recorded.
func (s *Server) answer(ctx context.Context, cluster Cluster, is *issue.Issuer, node id.ID, record *modelv1.Certificate, csr []byte) (*cav1.Issued, error) {
	chain, record, err := s.signNode(ctx, cluster, is, node, record, csr)
	if err != nil {
		return nil, err
	}
	return &cav1.Issued{
		Cluster: cluster.ID.Bytes(), Node: node.Bytes(), Role: record.GetRole(),
		Chain: chain, Roots: is.Roots().DER(), IssuedAt: record.GetIssuedAt(),
		Managers: s.members.Managers(), Fips: cluster.FIPS,
	}, nil
}
