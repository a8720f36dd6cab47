package clitest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/cli"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Desk is a machine without a daemon: its user has a context, "far", for a
// manager of the swarm, dev01, that listens on the loopback.
type Desk struct {
	t    testing.TB
	home string
	// Address, host:port, of the manager.
	Address string
}

// Desk returns one whose user alice has the role. The manager serves until the
// test ends.
func (s *Swarm) Desk(t testing.TB, role modelv1.UserRole) *Desk {
	t.Helper()
	d := &Desk{t: t, home: t.TempDir()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root, key, err := issue.NewRoot(idOf("cluster"), time.Now())
	must(err)
	is, err := issue.New([][]byte{root}, key)
	must(err)
	own, err := credential(is, time.Now().Add(-s.Ahead))
	must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	d.Address = l.Addr().String()
	holder := &ca.Holder{}
	holder.Set(own)
	srv, err := rpc.NewServer(rpc.Config{Leader: leader{s}, Authorizer: people{role: role}, Credential: holder, Log: slog.New(slog.DiscardHandler)})
	must(err)
	s.mount(srv)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(l) }) // ends by Stop
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 0)
		defer cancel()
		srv.Stop(ctx)
		wg.Wait()
	})
	who, err := alice(is, role, d.Address)
	must(err)
	must(wallet.Open(d.getenv).Add("far", who))
	return d
}

func (d *Desk) getenv(name string) string { return map[string]string{"XDG_CONFIG_HOME": d.home}[name] }

// Run runs ctl at the desk.
func (d *Desk) Run(args ...string) Result {
	d.t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(d.t.Context(), append([]string{"ctl"}, args...), say.Streams{
		Out: &out, Err: &errs, In: &bytes.Buffer{}, Getenv: d.getenv, Poll: time.Millisecond, Now: func() time.Time { return Epoch },
	})
	return Result{Out: out.String(), Err: errs.String(), Code: code}
}

func idOf(name string) (x id.ID) {
	copy(x[:], ID(name))
	return x
}

// credential is that of dev01, made at a time.
func credential(is *issue.Issuer, at time.Time) (*ca.Credential, error) {
	key, csr, pub, err := newKey()
	if err != nil {
		return nil, err
	}
	record, err := is.Prepare(ca.Profile{Cluster: idOf("cluster"), Node: idOf("dev01"), Role: modelv1.Role_ROLE_MANAGER, Generation: 1, Lifetime: time.Hour}, pub, at)
	if err != nil {
		return nil, err
	}
	chain, err := is.Sign(idOf("cluster"), idOf("dev01"), record, csr)
	if err != nil {
		return nil, err
	}
	return ca.NewCredential(chain, key, is.Roots(), time.Now())
}

// alice is a user's context.
func alice(is *issue.Issuer, role modelv1.UserRole, address string) (*wallet.Context, error) {
	key, csr, pub, err := newKey()
	if err != nil {
		return nil, err
	}
	p := ca.UserProfile{Cluster: idOf("cluster"), User: idOf("alice"), Name: "alice", Generation: 1, Lifetime: time.Hour}
	record, err := is.PrepareUser(p, pub, time.Now())
	if err != nil {
		return nil, err
	}
	chain, err := is.SignUser(p, record, csr)
	if err != nil {
		return nil, err
	}
	return wallet.New(&controlv1.IssuedUser{
		Cluster: ID("cluster"), Chain: chain, Roots: is.Roots().DER(), User: &modelv1.User{Name: "alice", Role: role},
		Managers: &cav1.ManagerList{Index: 1, Managers: []*cav1.Manager{{Node: ID("dev01"), Address: address}}},
	}, key, time.Now())
}

func newKey() (key *ecdsa.PrivateKey, csr []byte, pub ca.PublicKey, err error) {
	if key, err = ca.NewKey(); err != nil {
		return nil, nil, pub, err
	}
	if csr, err = ca.NewCSR(key); err != nil {
		return nil, nil, pub, err
	}
	pub, err = ca.ParseCSR(csr)
	return key, csr, pub, err
}

// people is an Authorizer that knows every user and no node.
type people struct{ role modelv1.UserRole }

func (people) Node(context.Context, rpc.Proof) (modelv1.Role, error) {
	return 0, rpc.Errorf(errdefs.ErrPermissionDenied, "no node is known here")
}

func (people) Member(context.Context, rpc.Proof) error {
	return rpc.Errorf(errdefs.ErrPermissionDenied, "no member is known here")
}

func (p people) User(context.Context, rpc.UserProof) (modelv1.UserRole, error) { return p.role, nil }

// ListManagers implements the Control service: the client keeps to the manager
// its context names.
func (s *Swarm) ListManagers(context.Context, *controlv1.ListManagersRequest) (*controlv1.ListManagersResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &controlv1.ListManagersResponse{}, s.fail("ListManagers")
}
