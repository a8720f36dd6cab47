// Package clitest is a swarm that is not there: it answers the Control and Local
// services on a unix socket as a manager would, so that commands can be run from
// the words typed to the words printed, without a daemon.
//
// It owns the fake's state and its manners. It keeps the promises of the real
// thing that commands rely on: refs, versions, request ids, refusals with hints,
// a watch that tells everything first. It runs nothing: tasks of a service run at
// once, or stay as the test puts them.
package clitest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/cli"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Epoch is the fake's log time: what lists count ages from.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A Swarm is the fake. Its fields may be changed before it serves, and under
// Edit afterwards.
type Swarm struct {
	controlv1.UnimplementedControlServer
	localv1.UnimplementedLocalServer

	mu      sync.Mutex // guards all below; held for memory only
	changed chan struct{}
	index   uint64
	seen    map[string]bool // request ids

	Nodes    []*controlv1.NodeView
	Services []*controlv1.ServiceView
	Tasks    []*controlv1.TaskView
	Tokens   []*modelv1.JoinToken
	Cluster  *controlv1.GetClusterResponse
	Daemon   *localv1.InfoResponse
	// Worker: the node is no manager; Control is refused as such.
	Worker bool
	// Follower: changes are answered by another manager, the leader.
	Follower bool
	// Cut: the manager does not hear the others.
	Cut bool
	// Fail is the error of the next call of a method, "CreateService", once for
	// each error.
	Fail map[string][]error
	// Idle: new tasks stay PENDING.
	Idle bool
	// Learning is how many times a new manager is looked at before it has a vote.
	Learning int
	// Staying is how many times a demoted manager is looked at before it is out of
	// the group.
	Staying int
	// Calls are the methods called, in order.
	Calls []string
	// Auth is what the last service was made or changed with.
	Auth *modelv1.RegistryAuth
	// Told is what WatchEvents tells, and Asked what it was asked.
	Told  []*controlv1.WatchEventsResponse
	Asked []*controlv1.WatchEventsRequest
	// Trail is what ReadAudit tells.
	Trail    *Trail
	narrowed *controlv1.ReadAuditRequest
	// Root is the root and what becomes of it.
	Root *RootStory
	// Ahead is how far a desk's clock is ahead of the swarm's.
	Ahead time.Duration
}

// ID returns the id of the thing called name: always the same 16 bytes.
func ID(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:16]
}

// Ago returns the moment d before Epoch, in Unix nanoseconds.
func Ago(d time.Duration) int64 { return Epoch.Add(-d).UnixNano() }

// Edit changes the swarm and wakes who watches it.
func (s *Swarm) Edit(change func(*Swarm)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	s.wake()
}

// wake is called with the lock held.
func (s *Swarm) wake() {
	s.index++
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// Listen serves the swarm on a socket of its own until stop is called.
func (s *Swarm) Listen() (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "ctl") // short: a socket's path has 108 bytes
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "ctl.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, err
	}
	srv, err := rpc.NewServer(rpc.Config{Leader: leader{s}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", nil, err
	}
	s.mount(srv)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeUnix(l) }) // ends by stop
	return socket, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 0)
		defer cancel()
		srv.Stop(ctx)
		wg.Wait()
		_ = os.RemoveAll(dir) // a temporary directory
	}, nil
}

// mount makes srv serve the swarm.
func (s *Swarm) mount(srv *rpc.Server) {
	localv1.RegisterLocalServer(srv, s)
	srv.Offer(&controlv1.Control_ServiceDesc)
	if !s.Worker {
		srv.Mount(&controlv1.Control_ServiceDesc, s)
	}
}

// leader is a manager that leads and is in contact, or is cut off.
type leader struct{ s *Swarm }

func (l leader) cut() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.Cut
}

// IsLeader is what the cut-off manager still believes.
func (leader) IsLeader() bool { return true }
func (leader) Following(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func (leader) Conn(context.Context) (*grpc.ClientConn, error) {
	return nil, rpc.RefuseNoLeader(nil, 1, 0)
}
func (l leader) Barrier(context.Context) error {
	if l.cut() {
		return rpc.RefuseNoLeader([]string{"dev02 (192.0.2.2:2377)", "dev03 (192.0.2.3:2377)"}, 2, 1)
	}
	return nil
}
func (leader) StaleOK(context.Context) error { return nil }
func (l leader) Freshness() rpc.Freshness {
	return rpc.Freshness{Stale: true, InContact: !l.cut(), Silence: time.Minute}
}

// A Result is how a command ended.
type Result struct {
	Out, Err string
	Code     int
}

// Run runs ctl against the swarm. A nil swarm is a daemon that is not there.
func Run(t testing.TB, s *Swarm, args ...string) Result {
	t.Helper()
	return RunIn(t, t.Context(), s, say.Streams{}, args...)
}

// RunIn is Run with a context and streams of the test's own; Out and Err are
// caught in any case.
func RunIn(t testing.TB, ctx context.Context, s *Swarm, streams say.Streams, args ...string) Result {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "none.sock")
	if s != nil {
		var stop func()
		var err error
		if socket, stop, err = s.Listen(); err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	var out, errs bytes.Buffer
	streams.Out, streams.Err = &out, &errs
	if streams.In == nil {
		streams.In = strings.NewReader("")
	}
	if streams.Now == nil {
		streams.Now = func() time.Time { return Epoch }
	}
	streams.Poll = time.Millisecond
	code := cli.Main(ctx, append([]string{"ctl", "--host", "unix://" + socket}, args...), streams)
	return Result{Out: out.String(), Err: strings.ReplaceAll(errs.String(), socket, "SOCKET"), Code: code}
}

// fail notes a call and returns the error planned for it. The lock is held.
func (s *Swarm) fail(method string) error {
	s.Calls = append(s.Calls, method)
	if errs := s.Fail[method]; len(errs) > 0 {
		s.Fail[method] = errs[1:]
		return errs[0]
	}
	return nil
}

// certificate is one of a node, made some time ago.
func certificate(name string, role modelv1.Role, ago, life time.Duration) *modelv1.Certificate {
	key, issuer := sha256.Sum256([]byte(name)), sha256.Sum256([]byte("root"))
	return &modelv1.Certificate{
		Generation: 1, Role: role, Serial: key[:16], KeySha256: key[:], Issuer: issuer[:],
		IssuedAt: Ago(ago), NotBefore: Ago(ago + time.Hour), NotAfter: Ago(ago - life),
	}
}

// Three returns the swarm of the walkthrough: three managers and a worker, one
// service with history.
func Three() *Swarm {
	s := &Swarm{Fail: map[string][]error{}, Root: &RootStory{Views: []*controlv1.RootView{{Certificates: [][]byte{[]byte("root")}, Now: Epoch.UnixNano(), Cluster: ID("cluster")}}}}
	for i, name := range []string{"dev01", "dev02", "dev03", "dev10"} {
		n := &controlv1.NodeView{Self: i == 0, Node: &modelv1.Node{
			Meta: &modelv1.Meta{Version: uint64(10 + i), CreatedIndex: uint64(i), CreatedAt: Ago(48 * time.Hour), UpdatedAt: Ago(time.Hour)},
			Id:   ID(name),
			Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_MANAGER, Availability: modelv1.Availability_AVAILABILITY_ACTIVE},
			Role: modelv1.Role_ROLE_MANAGER, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED,
			Description: &modelv1.NodeDescription{Hostname: name, Os: "linux", Architecture: "x86_64", Version: "v0.1.0",
				Runtime: "containerd 2.3.7, runc 1.5.2", Address: fmt.Sprintf("192.0.2.%d", i+1),
				Resources: &modelv1.Resources{NanoCpus: 4e9, MemoryBytes: 8271986688}},
			Status:  &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY},
			Current: certificate(name, modelv1.Role_ROLE_MANAGER, 48*time.Hour, 7*24*time.Hour),
		}, Manager: &controlv1.ManagerStatus{Reachability: controlv1.ManagerStatus_REACHABILITY_REACHABLE,
			Leader: i == 0, Address: fmt.Sprintf("192.0.2.%d:2377", i+1), Voter: true, RaftId: uint64(i + 1)}}
		if name == "dev10" {
			n.Manager, n.Node.Role, n.Node.Spec.Role = nil, modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_WORKER
			n.Node.Current = certificate(name, modelv1.Role_ROLE_WORKER, 24*time.Hour, 90*24*time.Hour)
			n.Node.Current.Generation = 2
			n.Node.Previous = certificate(name+" before", modelv1.Role_ROLE_WORKER, 48*time.Hour, 2*time.Hour)
			n.Node.Previous.SupersededAt = n.Node.Current.IssuedAt
		}
		s.Nodes = append(s.Nodes, n)
	}
	s.Cluster = &controlv1.GetClusterResponse{Nodes: 4, Managers: 3, Cluster: &modelv1.Cluster{Id: ID("cluster"), Spec: &modelv1.ClusterSpec{}},
		ManagerAddresses: []string{"192.0.2.1:2377", "192.0.2.2:2377", "192.0.2.3:2377"}}
	s.Daemon = &localv1.InfoResponse{State: localv1.State_STATE_ACTIVE, Node: ID("dev01"), Cluster: ID("cluster"),
		Role: modelv1.Role_ROLE_MANAGER, Hostname: "dev01", Address: "192.0.2.1", Version: "v0.1.0",
		Runtime: "containerd 2.3.7, runc 1.5.2", Description: s.Nodes[0].Node.Description, Running: 2, StateDir: "/var/lib/skep",
		RaftTick: int64(50 * time.Millisecond), RaftHeartbeat: int64(100 * time.Millisecond), RaftElection: int64(600 * time.Millisecond),
		ManagerAddresses: s.Cluster.ManagerAddresses, Leader: true}
	return s
}
