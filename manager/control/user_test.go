package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// scribe signs as the authority does, with a root of its own.
type scribe struct {
	*issue.Issuer
	signed int
}

func newScribe(t *testing.T) *scribe {
	t.Helper()
	root, key, err := issue.NewRoot(num(200), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	is, err := issue.New([][]byte{root}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &scribe{Issuer: is}
}

func (s *scribe) PrepareUser(_ context.Context, p ca.UserProfile, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error) {
	return s.Issuer.PrepareUser(p, key, now)
}

func (s *scribe) SignUser(_ context.Context, p ca.UserProfile, record *modelv1.Certificate, csr []byte) (chain, roots [][]byte, err error) {
	s.signed++
	chain, err = s.Issuer.SignUser(p, record, csr)
	return chain, s.Roots().DER(), err
}

// draw draws a key and a request for it.
func (w *world) draw() (*ecdsa.PrivateKey, []byte) {
	w.Helper()
	key, err := ca.NewKey()
	if err != nil {
		w.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		w.Fatal(err)
	}
	return key, csr
}

// alice asks for a user as a client does.
func (w *world) alice() (*ecdsa.PrivateKey, *controlv1.CreateUserRequest) {
	w.Helper()
	key, csr := w.draw()
	return key, &controlv1.CreateUserRequest{RequestId: fresh(), Name: "alice", Role: modelv1.UserRole_USER_ROLE_OPERATOR, Csr: csr}
}

// person is who an issued certificate proves.
func (w *world) person(issued *controlv1.IssuedUser, key *ecdsa.PrivateKey) ca.UserIdentity {
	w.Helper()
	roots, err := ca.ParseBundle(issued.GetRoots())
	if err != nil {
		w.Fatal(err)
	}
	cred, err := ca.NewUserCredential(issued.GetChain(), key, roots)
	if err != nil {
		w.Fatal(err)
	}
	return cred.Identity
}

func as(ctx context.Context, who ca.UserIdentity) context.Context {
	return rpc.WithCaller(ctx, rpc.Caller{Kind: rpc.User, User: who.Name, Person: who})
}

func TestAUserIsRecordedBeforeHisCertificateIsSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	key, req := w.alice()
	w.log.Before = func([]byte) error { return errdefs.ErrUnavailable }
	if _, err := w.CreateUser(w.ctx(), req); !errdefs.IsUnavailable(err) {
		t.Fatalf("without a log: %v", err)
	}
	if n := w.cfg.Users.(*scribe).signed; n != 0 {
		t.Fatalf("%d certificates were signed that are in no record", n)
	}
	w.log.Before = nil
	first, err := w.CreateUser(w.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	who := w.person(first.GetIssued(), key)
	u := w.snapshot().User(who.User)
	if who.Name != "alice" || who.Generation != 1 || u.GetRole() != modelv1.UserRole_USER_ROLE_OPERATOR || u.GetCreatedBy() != "user:uid:0" ||
		who.NotAfter.Sub(time.Unix(0, u.GetCurrent().GetIssuedAt())).Round(time.Minute) != 8*time.Hour || first.GetIssued().GetManagers().GetIndex() == 0 {
		t.Errorf("the certificate says %+v, the record %v", who, u)
	}
	// The answer was lost; the same request, and the same key with a new request.
	for range 2 {
		again, err := w.CreateUser(w.ctx(), req)
		if err != nil || w.person(again.GetIssued(), key) != who {
			t.Errorf("asked again: %v, %v", again.GetIssued().GetUser(), err)
		}
		req.RequestId = fresh()
	}
	_, other := w.alice()
	_, err = w.CreateUser(w.ctx(), other)
	w.refuses(err, errdefs.IsAlreadyExists, "user alice already exists", "ctl user renew alice")
}

func TestAUserThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	_, req := w.alice()
	for words, spoil := range map[string]func(*controlv1.CreateUserRequest){
		"user name": func(q *controlv1.CreateUserRequest) { q.Name = "uid:0@" },
		"role":      func(q *controlv1.CreateUserRequest) { q.Role = 0 },
		"ttl":       func(q *controlv1.CreateUserRequest) { q.Ttl = int64(time.Second) },
		"key":       func(q *controlv1.CreateUserRequest) { q.Csr = []byte("x") },
	} {
		bad := proto.CloneOf(req)
		spoil(bad)
		_, err := w.CreateUser(w.ctx(), bad)
		w.refuses(err, errdefs.IsInvalidArgument, words, "")
	}
	if w.snapshot().CountUsers() != 0 {
		t.Error("somebody was made")
	}
}

func TestAUserRenewsHisOwnAndOnlyTheNewestCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	key, req := w.alice()
	resp, err := w.CreateUser(w.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	who := w.person(resp.GetIssued(), key)
	next, csr := w.draw()
	renew := &controlv1.RenewUserRequest{RequestId: fresh(), Csr: csr}
	_, err = w.RenewUser(w.ctx(), renew)
	w.refuses(err, errdefs.IsFailedPrecondition, "no certificate to renew", "ctl user renew USER")
	_, err = w.RenewUser(as(w.Context(), who), renew)
	w.refuses(err, errdefs.IsFailedPrecondition, "not renewed yet", "may be renewed from")

	w.age(who, time.Hour)
	var got ca.UserIdentity
	for range 2 { // the answer is lost: the former certificate asks again
		again, err := w.RenewUser(as(w.Context(), who), renew)
		if err != nil {
			t.Fatal(err)
		}
		got = w.person(again.GetIssued(), next)
		renew.RequestId = fresh()
	}
	u := w.snapshot().User(who.User)
	if got.Generation != 2 || got.User != who.User || !bytes.Equal(u.GetPrevious().GetKeySha256(), who.KeySHA256[:]) || u.GetPrevious().GetSupersededAt() == 0 {
		t.Errorf("renewed to %+v, record %v", got, u)
	}
	_, csr = w.draw()
	_, err = w.RenewUser(as(w.Context(), who), &controlv1.RenewUserRequest{RequestId: fresh(), Csr: csr})
	w.refuses(err, errdefs.IsUnauthorized, "a newer one has taken its place", "ctl user renew alice")
}

// age makes a user's certificate older than it is.
func (w *world) age(who ca.UserIdentity, by time.Duration) {
	w.Helper()
	u := proto.CloneOf(w.snapshot().User(who.User))
	u.Current.IssuedAt -= int64(by)
	w.do(opPutUser(u))
}

func TestACertificateMadeAnewStopsTheOneBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	key, req := w.alice()
	resp, err := w.CreateUser(w.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	who := w.person(resp.GetIssued(), key)
	next, csr := w.draw()
	again, err := w.ReissueUser(w.ctx(), &controlv1.ReissueUserRequest{RequestId: fresh(), Ref: "alice", Ttl: int64(time.Hour), Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	got, u := w.person(again.GetIssued(), next), w.snapshot().User(who.User)
	if got.Generation != 2 || u.GetPrevious() != nil || time.Duration(u.GetTtl()) != time.Hour {
		t.Errorf("made anew: %+v, record %v", got, u)
	}
	_, err = w.ReissueUser(w.ctx(), &controlv1.ReissueUserRequest{RequestId: fresh(), Ref: "bob", Csr: csr})
	w.refuses(err, errdefs.IsNotFound, "user bob not found", "")
}

func TestUsersAreShownAndRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	_, req := w.alice()
	if _, err := w.CreateUser(w.ctx(), req); err != nil {
		t.Fatal(err)
	}
	list, err := w.ListUsers(w.ctx(), &controlv1.ListUsersRequest{})
	if err != nil || len(list.GetUsers()) != 1 || list.GetNow() == 0 {
		t.Fatalf("the list: %v, %v", list, err)
	}
	one, err := w.GetUser(w.ctx(), &controlv1.GetUserRequest{Ref: idOf(list.GetUsers()[0].GetId()).Short()})
	if err != nil || one.GetUser().GetName() != "alice" {
		t.Fatalf("by the beginning of the id: %v, %v", one, err)
	}
	remove := &controlv1.RemoveUserRequest{RequestId: fresh(), Ref: "alice"}
	for range 2 {
		if _, err := w.RemoveUser(w.ctx(), remove); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.GetUser(w.ctx(), &controlv1.GetUserRequest{Ref: "alice"})
	w.refuses(err, errdefs.IsNotFound, "user alice not found", "")
	if _, err := w.CreateUser(w.ctx(), req); err == nil { // the request was answered; who it made is gone
		t.Error("a removed user came back by a retry")
	}
	req.RequestId = fresh()
	if _, err := w.CreateUser(w.ctx(), req); err != nil {
		t.Errorf("the name is free again: %v", err)
	}
	managers, err := w.ListManagers(w.ctx(), &controlv1.ListManagersRequest{})
	if err != nil || managers.GetManagers().GetIndex() != w.snapshot().Index() || len(managers.GetRoots()) != 1 {
		t.Errorf("the managers: %v, %v", managers, err)
	}
}
