package enrol_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	asViewer = modelv1.UserRole_USER_ROLE_VIEWER
	asAdmin  = modelv1.UserRole_USER_ROLE_ADMIN
)

// certified makes a certificate of a user without any record.
func (w *world) certified(t *testing.T, user id.ID, generation uint64, at time.Time, life time.Duration) (*ca.UserCredential, *modelv1.Certificate) {
	t.Helper()
	key := newKey(t)
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	p := ca.UserProfile{Cluster: w.id, User: user, Name: "alice", Generation: generation, Lifetime: life}
	record, err := w.issuer.PrepareUser(p, pub, at)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := w.issuer.SignUser(p, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := ca.NewUserCredential(chain, key, w.issuer.Roots())
	if err != nil {
		t.Fatal(err)
	}
	return cred, record
}

// user is a person with a live record.
func (w *world) user(t *testing.T, role modelv1.UserRole) *ca.UserCredential {
	t.Helper()
	cred, record := w.certified(t, id.New(), 1, time.Now(), time.Hour)
	w.update(t, func(tx *store.Tx) error {
		return tx.PutUser(&modelv1.User{Id: cred.Identity.User.Bytes(), Name: "alice", Role: role, Current: record})
	})
	return cred
}

func (w *world) editUser(t *testing.T, x id.ID, change func(*modelv1.User)) {
	t.Helper()
	w.update(t, func(tx *store.Tx) error {
		u := proto.CloneOf(tx.User(x))
		change(u)
		return tx.PutUser(u)
	})
}

func (w *world) call(t *testing.T, to *host, as *ca.UserCredential) controlv1.ControlClient {
	t.Helper()
	cc, err := rpc.Dial(to.address, rpc.UserTLS(as, rpc.Peer{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return controlv1.NewControlClient(cc)
}

func look(t *testing.T, api controlv1.ControlClient) error {
	t.Helper()
	_, err := api.GetCluster(t.Context(), &controlv1.GetClusterRequest{})
	return err
}

func TestAUserIsWhatTheRecordSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	alice := w.user(t, asViewer)
	api := w.call(t, m, alice)
	resp, err := api.GetCluster(t.Context(), &controlv1.GetClusterRequest{})
	if err != nil || resp.GetManagerAddresses()[0] != "user:alice" {
		t.Fatalf("a viewer looks: %v, %v", resp, err)
	}
	remove := func() error {
		_, err := api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{Ref: "n"})
		return err
	}
	if err := remove(); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "viewer") {
		t.Errorf("a viewer removes a node: %v", err)
	}
	// The same connection, another role: rights are not the certificate's.
	w.editUser(t, alice.Identity.User, func(u *modelv1.User) { u.Role = asAdmin })
	if err := remove(); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "for user:alice via") {
		t.Errorf("an admin removes a node: %v, want the handler's answer", err)
	}
	w.update(t, func(tx *store.Tx) error { return tx.Delete(store.KindUser, alice.Identity.User.Bytes()) })
	if err := look(t, api); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "user alice was removed") {
		t.Errorf("a removed user looks: %v", err)
	}
}

func TestAUsersCallIsCarriedToTheLeaderInHisName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leader, follower := w.serve(t, w.node(t, asManager)), w.serve(t, w.node(t, asManager))
	follower.leads.Store(false)
	follower.leader.Store(leader)
	alice := w.user(t, asAdmin)
	_, err := w.call(t, follower, alice).RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{Ref: "n"})
	if want := "remove for user:alice via " + follower.holder.Get().Identity.Node.String(); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("by way of a follower: %v, want %q", err, want)
	}
}

func TestAUserCarriesNothingForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "skep-forwarded", "1", "skep-caller-bin", `{"kind":2,"user":"uid:0"}`)
	_, err := w.call(t, m, w.user(t, asViewer)).RemoveNode(ctx, &controlv1.RemoveNodeRequest{Ref: "n"})
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "may not carry calls for others") {
		t.Errorf("a viewer who says that root asks: %v", err)
	}
}

func TestSlotsOfAUserAreJudgedAsANodesAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	alice := w.user(t, asViewer)
	next, record := w.certified(t, alice.Identity.User, 2, time.Now(), time.Hour)
	supersede := func(ago time.Duration) {
		w.editUser(t, alice.Identity.User, func(u *modelv1.User) {
			if u.GetPrevious() == nil {
				u.Previous, u.Current = u.GetCurrent(), record
			}
			u.Previous.SupersededAt = time.Now().Add(-ago).UnixNano()
		})
	}
	supersede(0)
	if err := errors.Join(look(t, w.call(t, m, alice)), look(t, w.call(t, m, next))); err != nil {
		t.Errorf("just after a renewal: %v", err)
	}
	supersede(2 * time.Minute)
	former := w.call(t, m, alice)
	if err := look(t, former); !errdefs.IsUnauthorized(err) || !strings.Contains(rpc.HintOf(err), "ctl user renew alice") {
		t.Errorf("two minutes after: %v, hint %q", err, rpc.HintOf(err))
	}
	// It may still ask again for what took its place.
	if _, err := former.RenewUser(t.Context(), &controlv1.RenewUserRequest{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("its renewal: %v, want it let in", err)
	}
	w.editUser(t, alice.Identity.User, func(u *modelv1.User) { u.Previous = nil })
	if err := look(t, w.call(t, m, alice)); !errdefs.IsUnauthorized(err) {
		t.Errorf("a forgotten slot: %v", err)
	}
	forged, _ := w.certified(t, alice.Identity.User, 2, time.Now(), time.Hour)
	if err := look(t, w.call(t, m, forged)); !errdefs.IsUnauthorized(err) {
		t.Errorf("another key of the generation: %v", err)
	}
	far, _ := w.certified(t, alice.Identity.User, 9, time.Now(), time.Hour)
	if err := look(t, w.call(t, m, far)); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "restored") {
		t.Errorf("a generation nobody recorded: %v", err)
	}
}

func TestAReplicaBehindAUserLooksAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	cred, record := w.certified(t, id.New(), 1, time.Now(), time.Hour)
	arrive := func() error {
		if w.store.Snapshot().User(cred.Identity.User) == nil {
			w.update(t, func(tx *store.Tx) error {
				return tx.PutUser(&modelv1.User{Id: cred.Identity.User.Bytes(), Name: "alice", Role: asViewer, Current: record})
			})
		}
		return nil
	}
	m.barrier.Store(&arrive)
	if err := look(t, w.call(t, m, cred)); err != nil {
		t.Errorf("a user made a moment ago: %v", err)
	}
}

func TestAnExpiredUserIsToldSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	late, record := w.certified(t, id.New(), 1, time.Now().Add(-3*time.Hour), 2*time.Hour)
	w.update(t, func(tx *store.Tx) error {
		return tx.PutUser(&modelv1.User{Id: late.Identity.User.Bytes(), Name: "alice", Role: asAdmin, Current: record})
	})
	if err := look(t, w.call(t, m, late)); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "certificate of user alice expired at ") {
		t.Errorf("%v, want it in words", err)
	}
}

func TestOutOfContactAUserGetsStaleAnswersOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	api := w.call(t, m, w.user(t, asViewer))
	m.contact.Store(false)
	if err := look(t, api); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "out of contact") {
		t.Errorf("a fresh read: %v", err)
	}
	asked := m.stale.Load()
	if _, err := api.GetCluster(rpc.Stale(t.Context()), &controlv1.GetClusterRequest{}); err != nil || m.stale.Load() == asked {
		t.Errorf("a stale read: %v; whether that is allowed was asked %d times", err, m.stale.Load()-asked)
	}
}

func TestRemovalCutsAUsersStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	ctx, stop := context.WithCancel(t.Context())
	watching := make(chan error, 1)
	go func() { watching <- enrol.Watch(ctx, w.store, m.server.Recheck) }()
	defer func() { stop(); <-watching }()
	alice := w.user(t, asViewer)
	s, err := w.call(t, m, alice).WatchService(t.Context(), &controlv1.WatchServiceRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.update(t, func(tx *store.Tx) error { return tx.Delete(store.KindUser, alice.Identity.User.Bytes()) })
	if _, err := s.Recv(); !errdefs.IsPermissionDenied(err) || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "alice was removed") {
		t.Errorf("the watch of a removed user ends with %v", err)
	}
}

func TestAUsersCertificateIsNoNodesAndServesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	alice := w.user(t, asAdmin)
	cc, err := rpc.Dial(m.address, rpc.UserTLS(alice, rpc.Peer{}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	if _, err := session(t, cc); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a session: %v", err)
	}
	if _, err := cav1.NewAuthorityClient(cc).Renew(t.Context(), &cav1.RenewRequest{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a node's renewal: %v", err)
	}
	// Neither a user nor a worker passes for a manager to a user.
	for name, cert := range map[string]*tls.Certificate{"user": alice.TLS(), "worker": w.node(t, asWorker).Get().TLS()} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		err = look(t, w.call(t, &host{address: l.Addr().String()}, alice))
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "worker's certificate") && !strings.Contains(err.Error(), "certificate:") {
			t.Errorf("a %s that answers as a manager: %v", name, err)
		}
		srv.Stop()
		<-done
	}
}

func TestAnotherSwarmsUserIsNobody(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	stranger := other.user(t, asAdmin)
	if err := look(t, w.call(t, m, stranger)); !errdefs.IsUnavailable(err) {
		t.Errorf("the client of another swarm: %v, want no connection", err)
	}
	// One who trusts this swarm's roots and shows the other's certificate.
	conf := rpc.UserTLS(w.user(t, asViewer), rpc.Peer{})
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return stranger.TLS(), nil }
	cc, err := rpc.Dial(m.address, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	if err := look(t, controlv1.NewControlClient(cc)); !errdefs.IsUnavailable(err) {
		t.Errorf("the certificate of another swarm: %v, want no connection", err)
	}
}
