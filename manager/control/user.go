package control

import (
	"bytes"
	"context"
	"fmt"
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

// UserCA makes the certificates of users. What is recorded is signed, and nothing
// else (D8).
type UserCA interface {
	// PrepareUser returns the record of a certificate; it may be called more than
	// once for one request, and only the last answer is committed.
	PrepareUser(ctx context.Context, p ca.UserProfile, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error)
	// SignUser signs what was recorded, and returns the roots to trust with it.
	SignUser(ctx context.Context, p ca.UserProfile, record *modelv1.Certificate, csr []byte) (chain, roots [][]byte, err error)
}

// maxUsers bounds the users of a swarm; more are refused.
const maxUsers = 10_000

// user returns the user that ref names.
func user(snap *store.Snapshot, ref string) (*modelv1.User, error) {
	if ref == "" {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "a user must be named")
	}
	var f found[*modelv1.User]
	for u := range snap.Users() {
		f.look(u, idOf(u.GetId()), ref, u.GetName())
	}
	return f.one("user", ref)
}

// ListUsers shows all users, by id.
func (s *Server) ListUsers(context.Context, *controlv1.ListUsersRequest) (*controlv1.ListUsersResponse, error) {
	snap := s.snapshot()
	resp := &controlv1.ListUsersResponse{Now: now(snap)}
	for u := range snap.Users() {
		resp.Users = append(resp.Users, u)
	}
	return resp, nil
}

// GetUser shows one user.
func (s *Server) GetUser(_ context.Context, msg *controlv1.GetUserRequest) (*controlv1.GetUserResponse, error) {
	u, err := user(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetUserResponse{User: u}, nil
}

// ListManagers shows whom clients may dial, as agents may (R15).
func (s *Server) ListManagers(context.Context, *controlv1.ListManagersRequest) (*controlv1.ListManagersResponse, error) {
	snap := s.snapshot()
	return &controlv1.ListManagersResponse{Managers: s.cfg.Managers(snap), Roots: snap.Cluster().GetRoot().GetCertificates()}, nil
}

// CreateUser makes a user and records his first certificate. The same key and
// name get the same record (R17).
func (s *Server) CreateUser(ctx context.Context, msg *controlv1.CreateUserRequest) (*controlv1.CreateUserResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	key, err := checkNewUser(msg)
	if err != nil {
		return nil, err
	}
	x := id.New()
	a, err := s.change(ctx, req, func(tx *store.Tx) error {
		if owner, held := tx.Holder(store.ClaimUserName, msg.GetName()); held {
			// A command that died before it had the answer, and was typed again.
			return sameUser(tx.User(owner), msg, key)
		}
		return s.createUser(ctx, tx, x, msg, key, req.GetCaller())
	}, x)
	if err != nil {
		return nil, err
	}
	x = a.first()
	if owner, held := s.snapshot().Holder(store.ClaimUserName, msg.GetName()); held {
		x = owner
	}
	issued, err := s.issued(ctx, x, key, msg.GetCsr())
	return &controlv1.CreateUserResponse{Issued: issued}, err
}

func checkNewUser(msg *controlv1.CreateUserRequest) (ca.PublicKey, error) {
	var f faults
	f.wrong("name", ca.CheckUserName(msg.GetName()))
	f.check(rpc.IsRole(msg.GetRole()), "role %v: want viewer, operator, rotator or admin", msg.GetRole())
	f.lifetime(msg.GetTtl())
	key, err := ca.ParseCSR(msg.GetCsr())
	f.wrong("key", err)
	return key, f.refusal("user " + msg.GetName())
}

// lifetime checks how long certificates are to live; zero is the default.
func (f *faults) lifetime(ttl int64) {
	d := time.Duration(ttl)
	f.check(d == 0 || d >= ca.MinLifetime && d <= ca.MaxUserLifetime, "ttl %v: want %v to %v", d, ca.MinLifetime, ca.MaxUserLifetime)
}

// sameUser returns nil if the request asks for the user there is, with the key he
// has.
func sameUser(u *modelv1.User, msg *controlv1.CreateUserRequest, key ca.PublicKey) error {
	if u.GetRole() == msg.GetRole() && bytes.Equal(u.GetCurrent().GetKeySha256(), key.SHA256[:]) {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrAlreadyExists, "user %s already exists", msg.GetName()),
		fmt.Sprintf("choose another name, or make this one a new certificate: ctl user renew %s -o FILE", msg.GetName()))
}

func (s *Server) createUser(ctx context.Context, tx *store.Tx, x id.ID, msg *controlv1.CreateUserRequest, key ca.PublicKey, by string) error {
	if tx.CountUsers() >= maxUsers {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrResourceExhausted, "there are %d users, and no more are made", maxUsers),
			"remove some that are not needed: ctl user rm USER")
	}
	u := &modelv1.User{Id: x.Bytes(), Name: msg.GetName(), Role: msg.GetRole(), Ttl: msg.GetTtl(), CreatedBy: by}
	if u.GetTtl() == 0 {
		u.Ttl = int64(ca.UserLifetime)
	}
	if err := s.certify(ctx, tx, u, key); err != nil {
		return err
	}
	if err := tx.PutUser(u); err != nil {
		return err
	}
	return tx.Claim(store.ClaimUserName, u.GetName(), x)
}

// certify makes key's certificate the current one of u.
func (s *Server) certify(ctx context.Context, tx *store.Tx, u *modelv1.User, key ca.PublicKey) error {
	p, err := profile(tx.Snapshot, u)
	if err != nil {
		return err
	}
	p.Generation, p.Lifetime = u.GetCurrent().GetGeneration()+1, time.Duration(u.GetTtl())
	next, err := s.cfg.Users.PrepareUser(ctx, p, key, time.Now()) // clocks judge it, and not log time
	if err != nil {
		return err
	}
	if u.Previous = u.GetCurrent(); u.Previous != nil {
		u.Previous.SupersededAt = now(tx.Base())
	}
	u.Current = next
	return nil
}

// profile is what a user's certificate says of him.
func profile(snap *store.Snapshot, u *modelv1.User) (ca.UserProfile, error) {
	c, err := cluster(snap)
	if err != nil {
		return ca.UserProfile{}, err
	}
	return ca.UserProfile{Cluster: idOf(c.GetId()), User: idOf(u.GetId()), Name: u.GetName()}, nil
}

// issued signs what is recorded for key.
func (s *Server) issued(ctx context.Context, x id.ID, key ca.PublicKey, csr []byte) (*controlv1.IssuedUser, error) {
	snap := s.snapshot()
	u := snap.User(x)
	switch {
	case u == nil:
		return nil, rpc.Errorf(errdefs.ErrNotFound, "user %s was removed meanwhile", x)
	case !bytes.Equal(u.GetCurrent().GetKeySha256(), key.SHA256[:]):
		return nil, rpc.Errorf(errdefs.ErrAborted, "user %s was given another certificate meanwhile", u.GetName())
	}
	p, err := profile(snap, u)
	if err != nil {
		return nil, err
	}
	chain, roots, err := s.cfg.Users.SignUser(ctx, p, u.GetCurrent(), csr)
	if err != nil {
		return nil, err
	}
	return &controlv1.IssuedUser{Cluster: p.Cluster.Bytes(), User: u, Chain: chain, Roots: roots, Managers: s.cfg.Managers(snap)}, nil
}

// ReissueUser gives a user another certificate in the place of the one there is,
// which stops working: it may have been lost or stolen.
func (s *Server) ReissueUser(ctx context.Context, msg *controlv1.ReissueUserRequest) (*controlv1.ReissueUserResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	var f faults
	f.lifetime(msg.GetTtl())
	key, err := ca.ParseCSR(msg.GetCsr())
	f.wrong("key", err)
	if err := f.refusal("user " + msg.GetRef()); err != nil {
		return nil, err
	}
	u, err := user(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(u.GetId())
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		return s.editUser(ctx, tx, x, key, func(u *modelv1.User) error {
			if msg.GetTtl() != 0 {
				u.Ttl = msg.GetTtl()
			}
			err := s.certify(ctx, tx, u, key)
			u.Previous = nil
			return err
		})
	}, x)
	if err != nil {
		return nil, err
	}
	issued, err := s.issued(ctx, x, key, msg.GetCsr())
	return &controlv1.ReissueUserResponse{Issued: issued}, err
}

// editUser changes a copy of a user, unless key is his already (R17).
func (s *Server) editUser(ctx context.Context, tx *store.Tx, x id.ID, key ca.PublicKey, change func(*modelv1.User) error) error {
	old := tx.User(x)
	if old == nil {
		return rpc.Errorf(errdefs.ErrNotFound, "user %s not found", x)
	}
	u := proto.CloneOf(old)
	if bytes.Equal(old.GetCurrent().GetKeySha256(), key.SHA256[:]) {
		if !formerRoot(tx, old.GetCurrent()) {
			return nil
		}
		// It may never have been signed, and is not any more: the next one is made in
		// its place.
		if err := s.certify(ctx, tx, u, key); err != nil {
			return err
		}
		u.Previous = old.GetPrevious()
		return tx.PutUser(u)
	}
	if err := change(u); err != nil {
		return err
	}
	return tx.PutUser(u)
}

// formerRoot reports whether a certificate was recorded for a root that does not
// sign any more.
func formerRoot(tx *store.Tx, c *modelv1.Certificate) bool {
	signer := store.Signer(tx.Cluster().GetRoot())
	return len(c.GetIssuer()) > 0 && !bytes.Equal(c.GetIssuer(), signer[:])
}

// RenewUser gives the caller his next certificate. The one he calls with lives on
// for a minute on new connections, so that a lost answer locks nobody out (R17).
func (s *Server) RenewUser(ctx context.Context, msg *controlv1.RenewUserRequest) (*controlv1.RenewUserResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	caller, _ := rpc.FromContext(ctx)
	if caller.Person.IsZero() {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "who calls from a socket has no certificate to renew"),
			"name the user: ctl user renew USER -o FILE")
	}
	key, err := ca.ParseCSR(msg.GetCsr())
	if err != nil {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "%v", err)
	}
	x := caller.Person.User
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		return s.editUser(ctx, tx, x, key, func(u *modelv1.User) error {
			if err := mayRenew(tx, u, caller.Person); err != nil {
				return err
			}
			return s.certify(ctx, tx, u, key)
		})
	}, x)
	if err != nil {
		return nil, err
	}
	issued, err := s.issued(ctx, x, key, msg.GetCsr())
	return &controlv1.RenewUserResponse{Issued: issued}, err
}

// mayRenew refuses a certificate that was renewed already, and one that is too
// young (R21): a viewer writes no more than that into the log.
func mayRenew(tx *store.Tx, u *modelv1.User, who ca.UserIdentity) error {
	current := u.GetCurrent()
	if !bytes.Equal(current.GetKeySha256(), who.KeySHA256[:]) {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated, "certificate of user %s, generation %d: a newer one has taken its place", who.Name, who.Generation),
			fmt.Sprintf("have an admin make another: ctl user renew %s -o FILE", who.Name))
	}
	issued := time.Unix(0, current.GetIssuedAt())
	at := issued.Add(ca.RenewPause(issued, time.Unix(0, current.GetNotAfter())))
	if t := time.Now(); t.Before(at) && !formerRoot(tx, current) {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the certificate of user %s is only %v old and is not renewed yet",
			who.Name, t.Sub(issued).Round(time.Second)), "it may be renewed from "+at.UTC().Format(time.RFC3339)+" on")
	}
	return nil
}

// RemoveUser forgets a user. His certificates stop working on every manager in
// contact with the quorum, and his open streams end.
func (s *Server) RemoveUser(ctx context.Context, msg *controlv1.RemoveUserRequest) (*controlv1.RemoveUserResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.RemoveUserResponse{Id: a.first().Bytes()}, err
	}
	u, err := user(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(u.GetId())
	_, err = s.change(ctx, req, func(tx *store.Tx) error { return tx.Delete(store.KindUser, x.Bytes()) }, x)
	if err != nil {
		return nil, err
	}
	return &controlv1.RemoveUserResponse{Id: x.Bytes()}, nil
}
