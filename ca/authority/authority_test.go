package authority

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// book is a Members on paper: one record per key.
type book struct {
	cluster Cluster
	nodes   map[ca.Digest]id.ID
	records map[ca.Digest]*modelv1.Certificate
	waits   bool  // who comes waits to be accepted
	err     error // the end of every change, after it was recorded
	settled []*modelv1.Certificate
}

func (b *book) Cluster(context.Context) (Cluster, error) { return b.cluster, nil }
func (b *book) Managers() *cav1.ManagerList              { return &cav1.ManagerList{Index: 3} }

func (b *book) Enrol(_ context.Context, e Enrolment, prepare Prepare) (Admission, error) {
	if e.Role == 0 {
		return Admission{}, UnknownToken(e.Pinned)
	}
	if b.waits {
		return Admission{Node: id.New(), Expires: 5}, nil
	}
	if b.records[e.Key.SHA256] == nil {
		node := id.New()
		record, err := prepare(node, e.Role, 1, time.Now())
		if err != nil {
			return Admission{}, err
		}
		b.nodes[e.Key.SHA256], b.records[e.Key.SHA256] = node, record
	}
	return Admission{Node: b.nodes[e.Key.SHA256], Record: b.records[e.Key.SHA256]}, b.err
}

func (b *book) Renew(_ context.Context, r Renewal, prepare Prepare) (Admission, error) {
	record, err := prepare(r.Caller.Node, modelv1.Role_ROLE_MANAGER, r.Caller.Generation+1, time.Now())
	return Admission{Node: r.Caller.Node, Record: record}, err
}

func (b *book) SettleNode(_ context.Context, _ id.ID, record *modelv1.Certificate) error {
	b.settled = append(b.settled, record)
	return b.err
}

func (b *book) SettleUser(_ context.Context, _ id.ID, record *modelv1.Certificate) error {
	b.settled = append(b.settled, record)
	return b.err
}

func newBook(t *testing.T) (*Server, *book) {
	t.Helper()
	b := &book{nodes: map[ca.Digest]id.ID{}, records: map[ca.Digest]*modelv1.Certificate{}}
	b.cluster.ID = id.New()
	root, key, err := issue.NewRoot(b.cluster.ID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.cluster.Roots, b.cluster.Key = [][]byte{root}, key
	b.cluster.WorkerToken, b.cluster.ManagerToken = ca.NewTokenSecret(), ca.NewTokenSecret()
	s, err := New(Config{Members: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func csrOf(t *testing.T) []byte {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (b *book) token(manager bool) string {
	tok := ca.Token{Digest: ca.RootDigest(b.cluster.Roots[0]), Secret: b.cluster.WorkerToken}
	if manager {
		tok.Secret = b.cluster.ManagerToken
	}
	return tok.Reveal()
}

func TestTheTokenPicksTheRole(t *testing.T) {
	t.Parallel()
	s, b := newBook(t)
	for manager, want := range map[bool]modelv1.Role{false: modelv1.Role_ROLE_WORKER, true: modelv1.Role_ROLE_MANAGER} {
		resp, err := s.Enroll(t.Context(), &cav1.EnrollRequest{Token: b.token(manager), Csr: csrOf(t)})
		if err != nil || resp.GetIssued().GetRole() != want || resp.GetIssued().GetManagers().GetIndex() != 3 {
			t.Errorf("manager token %v: %v, %v", manager, resp.GetIssued().GetRole(), err)
		}
	}
}

func TestEnrollRefuses(t *testing.T) {
	t.Parallel()
	s, b := newBook(t)
	_, other := newBook(t)
	foreign := ca.Token{Digest: ca.RootDigest(other.cluster.Roots[0]), Secret: b.cluster.WorkerToken}.Reveal()
	for name, tt := range map[string]struct {
		req  *cav1.EnrollRequest
		kind error
	}{
		"no token":                          {&cav1.EnrollRequest{Csr: csrOf(t)}, errdefs.ErrPermissionDenied},
		"another's digest":                  {&cav1.EnrollRequest{Token: foreign, Csr: csrOf(t)}, errdefs.ErrPermissionDenied},
		"another's secret":                  {&cav1.EnrollRequest{Token: other.token(true), Csr: csrOf(t)}, errdefs.ErrPermissionDenied},
		"no request":                        {&cav1.EnrollRequest{Token: b.token(false)}, errdefs.ErrInvalidArgument},
		"a huge request":                    {&cav1.EnrollRequest{Token: b.token(false), Csr: make([]byte, 1<<20)}, errdefs.ErrInvalidArgument},
		"a hostname that clears the screen": {&cav1.EnrollRequest{Token: b.token(false), Csr: csrOf(t), Hostname: "\x1b[2J"}, errdefs.ErrInvalidArgument},
		"a huge hostname":                   {&cav1.EnrollRequest{Token: b.token(false), Csr: csrOf(t), Hostname: strings.Repeat("x", 300)}, errdefs.ErrInvalidArgument},
	} {
		_, err := s.Enroll(t.Context(), tt.req)
		if !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v", name, err, tt.kind)
		}
	}
	// A cluster that has no standing token takes none, not even an empty one.
	b.cluster.WorkerToken = ca.Token{}.Secret
	empty := ca.Token{Digest: ca.RootDigest(b.cluster.Roots[0])}
	if _, err := s.Enroll(t.Context(), &cav1.EnrollRequest{Token: empty.Reveal(), Csr: csrOf(t)}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("without a standing token: %v", err)
	}
	if len(b.records) != 0 {
		t.Errorf("%d came in", len(b.records))
	}
}

func TestWhoWaitsGetsNoCertificate(t *testing.T) {
	t.Parallel()
	s, b := newBook(t)
	b.waits = true
	csr := csrOf(t)
	key, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Enroll(t.Context(), &cav1.EnrollRequest{Token: b.token(false), Csr: csr})
	if p := resp.GetPending(); err != nil || resp.GetIssued() != nil || p.GetExpiresAt() != 5 || ca.Digest(p.GetKey()) != key.SHA256 {
		t.Errorf("the answer is %v, %v", resp, err)
	}
}

func TestATokenTheClockTookThePlaceOfStillCounts(t *testing.T) {
	t.Parallel()
	s, b := newBook(t)
	worker, manager := b.token(false), b.token(true)
	b.cluster.FormerWorkerToken, b.cluster.WorkerToken = b.cluster.WorkerToken, ca.NewTokenSecret()
	b.cluster.FormerManagerToken, b.cluster.ManagerToken = b.cluster.ManagerToken, ca.NewTokenSecret()
	for token, want := range map[string]modelv1.Role{worker: modelv1.Role_ROLE_WORKER, manager: modelv1.Role_ROLE_MANAGER} {
		resp, err := s.Enroll(t.Context(), &cav1.EnrollRequest{Token: token, Csr: csrOf(t)})
		if err != nil || resp.GetIssued().GetRole() != want {
			t.Errorf("a former token gave %v, %v; want %v", resp.GetIssued().GetRole(), err, want)
		}
	}
	b.cluster.FormerWorkerToken = ca.Token{}.Secret
	if _, err := s.Enroll(t.Context(), &cav1.EnrollRequest{Token: worker, Csr: csrOf(t)}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("after the overlap: %v", err)
	}
}

func TestALostAnswerIsGivenAgain(t *testing.T) {
	t.Parallel()
	s, b := newBook(t)
	req := &cav1.EnrollRequest{Token: b.token(false), Csr: csrOf(t)}
	b.err = errdefs.ErrUnavailable // the leader dies after the commit
	if _, err := s.Enroll(t.Context(), req); !errdefs.IsUnavailable(err) {
		t.Fatalf("the first try: %v", err)
	}
	b.err = nil
	resp, err := s.Enroll(t.Context(), req)
	if err != nil || len(b.records) != 1 {
		t.Fatalf("the second try: %v, %d records; want the first one's", err, len(b.records))
	}
	node, err := id.FromBytes(resp.GetIssued().GetNode())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range b.nodes {
		if n != node {
			t.Errorf("the answer is for %s, the record for %s", node, n)
		}
	}
}

func TestOnlyNodesRenew(t *testing.T) {
	t.Parallel()
	s, _ := newBook(t)
	for _, c := range []rpc.Caller{{}, {Kind: rpc.User, User: "uid:0", Local: true}} {
		if _, err := s.Renew(rpc.WithCaller(t.Context(), c), &cav1.RenewRequest{Csr: csrOf(t)}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s renewed: %v", c.Key(), err)
		}
	}
	who := ca.Identity{Node: id.New(), Generation: 4}
	ctx := rpc.WithCaller(t.Context(), rpc.Caller{Kind: rpc.Node, Node: who.Node, Identity: who})
	resp, err := s.Renew(ctx, &cav1.RenewRequest{Csr: csrOf(t)})
	if err != nil || resp.GetIssued().GetRole() != modelv1.Role_ROLE_MANAGER {
		t.Errorf("renewed as %v, %v; want the role its record wants", resp.GetIssued().GetRole(), err)
	}
}

// TestWhoHasAnOldKeyOfANodeSlowsNobodyElse: a thief asks again and again with it.
func TestWhoHasAnOldKeyOfANodeSlowsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newBook(t)
		node := id.New()
		ask := func(key ca.Digest) error {
			who := ca.Identity{Node: node, Generation: 4, KeySHA256: key}
			_, err := s.Renew(rpc.WithCaller(t.Context(), rpc.Caller{Kind: rpc.Node, Node: node, Identity: who}), &cav1.RenewRequest{Csr: csrOf(t)})
			return err
		}
		slowed := 0
		for range 20 {
			if errdefs.IsResourceExhausted(ask(ca.Digest{1})) {
				slowed++
			}
		}
		if slowed != 15 {
			t.Errorf("%d of 20 requests with the old key were slowed, want 15", slowed)
		}
		if err := ask(ca.Digest{2}); err != nil {
			t.Errorf("the node itself: %v", err)
		}
	})
}

func TestStrangersAreSlowedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newBook(t)
		try := func(addr string) error {
			ctx := rpc.WithCaller(t.Context(), rpc.Caller{Address: addr})
			_, err := s.Enroll(ctx, &cav1.EnrollRequest{Token: "x"})
			return err
		}
		for i := range 50 {
			if err := try("10.0.0.1:999"); !errdefs.IsPermissionDenied(err) {
				t.Fatalf("try %d: %v, want the token refused", i, err)
			}
		}
		if err := try("10.0.0.1:1000"); !errdefs.IsResourceExhausted(err) || rpc.HintOf(err) == "" {
			t.Errorf("one more from there: %v, want slowed", err)
		}
		if err := try("10.0.0.2:999"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("another address: %v", err)
		}
		time.Sleep(time.Second)
		if err := try("10.0.0.1:999"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("a second later: %v", err)
		}
		for i := range 50 {
			if err := try("[2001:db8::" + string(rune('a'+i%6)) + "]:1"); !errdefs.IsPermissionDenied(err) {
				t.Fatalf("try %d of one network: %v", i, err)
			}
		}
		if err := try("[2001:db8::f]:1"); !errdefs.IsResourceExhausted(err) {
			t.Errorf("another address of the same /64: %v, want slowed", err)
		}
	})
}

func TestALimiterForgetsTheQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1, 1)
		for i := range maxKeys {
			if !l.Allow(string(rune(i)) + "x") {
				t.Fatalf("key %d refused", i)
			}
		}
		if l.Allow("one more") {
			t.Error("a limiter full of busy keys took another")
		}
		time.Sleep(2 * time.Second)
		if !l.Allow("one more") || len(l.keys) > 1 {
			t.Errorf("after they were quiet it knows %d keys", len(l.keys))
		}
	})
}
