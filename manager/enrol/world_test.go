package enrol_test

import (
	"context"
	"crypto/ecdsa"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

var quiet = slog.New(slog.DiscardHandler)

// world is a cluster whose consensus is one store that every manager shares.
type world struct {
	id      id.ID
	root    []byte
	store   *store.Store
	db      *store.DB
	log     *storetest.Log
	issuer  *issue.Issuer
	worker  ca.Token
	manager ca.Token
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, false)
}

// newWorldOf is a cluster that asks for FIPS 140-3 mode, or does not.
func newWorldOf(t *testing.T, fips bool) *world {
	t.Helper()
	w := &world{id: id.New()}
	w.store, w.db, w.log = storetest.New()
	root, key, err := issue.NewRoot(w.id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.root = root
	if w.issuer, err = issue.New([][]byte{root}, key); err != nil {
		t.Fatal(err)
	}
	w.worker = ca.Token{Digest: ca.RootDigest(root), Secret: ca.NewTokenSecret()}
	w.manager = ca.Token{Digest: ca.RootDigest(root), Secret: ca.NewTokenSecret()}
	w.update(t, func(tx *store.Tx) error {
		return tx.PutCluster(&modelv1.Cluster{
			Id: w.id.Bytes(), History: id.New().Bytes(), Spec: &modelv1.ClusterSpec{},
			Root:        &modelv1.RootCA{Certificates: [][]byte{root}, Key: key.Reveal()},
			WorkerToken: w.worker.Secret.Reveal(), ManagerToken: w.manager.Secret.Reveal(), Fips: fips,
		})
	})
	return w
}

func (w *world) update(t *testing.T, fn func(*store.Tx) error) {
	t.Helper()
	if _, err := w.db.Update(t.Context(), nil, fn); err != nil {
		t.Fatal(err)
	}
}

// editNode changes a node's record.
func (w *world) editNode(t *testing.T, node id.ID, change func(*modelv1.Node)) {
	t.Helper()
	w.update(t, func(tx *store.Tx) error {
		n := proto.CloneOf(tx.Node(node))
		change(n)
		return tx.PutNode(n)
	})
}

// issued makes a certificate without any record.
func (w *world) issued(t *testing.T, node id.ID, role modelv1.Role, generation uint64, at time.Time, life time.Duration) (*ca.Credential, *modelv1.Certificate) {
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
	record, err := w.issuer.Prepare(ca.Profile{Cluster: w.id, Node: node, Role: role, Generation: generation, Lifetime: life}, pub, at)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := w.issuer.Sign(w.id, node, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := ca.NewCredential(chain, key, w.issuer.Roots(), at)
	if err != nil {
		t.Fatal(err)
	}
	return cred, record
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// node is a machine with a live record.
func (w *world) node(t *testing.T, role modelv1.Role) *ca.Holder {
	t.Helper()
	cred, record := w.issued(t, id.New(), role, 1, time.Now(), ca.Lifetime(role, nil))
	w.update(t, func(tx *store.Tx) error {
		return tx.PutNode(&modelv1.Node{Id: cred.Identity.Node.Bytes(), Role: role, Current: record,
			Spec: &modelv1.NodeSpec{Role: role}, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED})
	})
	h := &ca.Holder{}
	h.Set(cred)
	return h
}

// host is a manager that serves.
type host struct {
	holder  *ca.Holder
	address string
	server  *rpc.Server
	auth    *enrol.Authorizer
	contact atomic.Bool
	leads   atomic.Bool
	// leader is whom calls are carried to; nil is nobody.
	leader  atomic.Pointer[host]
	barrier atomic.Pointer[func() error]
	stale   atomic.Int64
	// relayed counts the messages of relays.
	relayed atomic.Int64
	// looked, if set before the first call, is told of each search for a leader.
	looked func()
}

func (h *host) IsLeader() bool { return h.leads.Load() }

func (h *host) Following(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func (h *host) Conn(context.Context) (*grpc.ClientConn, error) {
	l := h.leader.Load()
	if h.looked != nil {
		h.looked()
	}
	if l == nil {
		return nil, rpc.RefuseNoLeader([]string{"m2 (10.0.0.2:2377)"}, 2, 1)
	}
	return rpc.Dial(l.address, rpc.ClientTLS(h.holder, rpc.Peer{Node: l.holder.Get().Identity.Node}))
}

func (h *host) Barrier(context.Context) error {
	if f := h.barrier.Load(); f != nil {
		return (*f)()
	}
	return nil
}

func (h *host) StaleOK(context.Context) error {
	h.stale.Add(1)
	return nil
}

func (h *host) Freshness() rpc.Freshness {
	return rpc.Freshness{Applied: 42, InContact: h.contact.Load()}
}

func (w *world) serve(t *testing.T, holder *ca.Holder) *host {
	t.Helper()
	h := &host{holder: holder}
	h.contact.Store(true)
	h.leads.Store(true)
	h.auth = &enrol.Authorizer{Store: w.store, Barrier: h.Barrier, InContact: h.contact.Load, StaleOK: h.StaleOK}
	server, err := rpc.NewServer(rpc.Config{Credential: holder, Authorizer: h.auth, Leader: h, ElectionWait: 300 * time.Millisecond, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	h.server = server
	auth, err := authority.New(authority.Config{Members: enrol.NewMembers(w.db), PerNode: 1000, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	cav1.RegisterAuthorityServer(server, auth)
	dispatchv1.RegisterDispatchServer(server, sessions{relayed: &h.relayed})
	raftv1.RegisterRaftServer(server, rafts{})
	controlv1.RegisterControlServer(server, controls{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l) }()
	t.Cleanup(func() {
		ctx, stop := context.WithCancel(context.Background())
		stop()
		server.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

// sessions greets and then waits, as a handler that listens to its context does.
type sessions struct {
	dispatchv1.UnimplementedDispatchServer
	relayed *atomic.Int64
}

func (sessions) Session(s dispatchv1.Dispatch_SessionServer) error {
	if err := s.Send(&dispatchv1.SessionResponse{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// Relay is for managers; this handler listens to its peer only.
func (h sessions) Relay(s dispatchv1.Dispatch_RelayServer) error {
	if err := s.Send(&dispatchv1.RelayResponse{}); err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
		h.relayed.Add(1)
	}
}

type rafts struct{ raftv1.UnimplementedRaftServer }

func (rafts) Stream(s raftv1.Raft_StreamServer) error {
	if err := s.Send(&raftv1.StreamResponse{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// Ping tells a clock that is three hours ahead of the one here.
func (rafts) Ping(context.Context, *raftv1.PingRequest) (*raftv1.PingResponse, error) {
	return &raftv1.PingResponse{Clock: time.Now().Add(3 * time.Hour).UnixNano()}, nil
}

type controls struct {
	controlv1.UnimplementedControlServer
}

func (controls) GetCluster(ctx context.Context, _ *controlv1.GetClusterRequest) (*controlv1.GetClusterResponse, error) {
	caller, _ := rpc.FromContext(ctx)
	return &controlv1.GetClusterResponse{ManagerAddresses: []string{caller.Key(), caller.Via.String()}}, nil
}

// WatchService tells one thing and then waits.
func (controls) WatchService(_ *controlv1.WatchServiceRequest, s grpc.ServerStreamingServer[controlv1.WatchServiceResponse]) error {
	if err := s.Send(&controlv1.WatchServiceResponse{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (controls) RemoveNode(ctx context.Context, r *controlv1.RemoveNodeRequest) (*controlv1.RemoveNodeResponse, error) {
	caller, _ := rpc.FromContext(ctx)
	return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrNotFound, "remove for %s via %s: %s", caller.Key(), caller.Via, r.GetRef()), "look again")
}

func (w *world) dial(t *testing.T, to *host, as *ca.Holder) *grpc.ClientConn {
	t.Helper()
	cc, err := rpc.Dial(to.address, rpc.ClientTLS(as, rpc.Peer{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func (w *world) join(t *testing.T, token ca.Token, key *ecdsa.PrivateKey, remotes ...string) (*client.Result, error) {
	t.Helper()
	return client.Enroll(t.Context(), client.Join{Token: token, Remotes: remotes, Key: key, Hostname: "h1"})
}
