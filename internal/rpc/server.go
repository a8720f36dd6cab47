package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/skep-project/skep/ca"
)

// ExpiredGrace is how long after its end a certificate of a member still carries
// Raft traffic and asks for its own successor (R14).
const ExpiredGrace = 30 * 24 * time.Hour

const (
	defaultTimeout  = 30 * time.Second
	defaultElection = 2500 * time.Millisecond
	electionPoll    = 50 * time.Millisecond
	connectionAge   = 30 * time.Minute // see Server.options
	handshakeTime   = 30 * time.Second // a whole fleet may be shaking hands
	// What a connection may hold. Windows that find their own size cost a ping and its
	// answer for every message of a quiet stream; these carry 100 MB/s over 2 ms, and
	// bound what a peer can make us keep.
	streamWindow    = 256 << 10
	connWindow      = 1 << 20
	maxMessageBytes = 16 << 20
	maxStreams      = 4096
)

// A Leader carries calls to where they can be done. The manager supplies it.
type Leader interface {
	// IsLeader reports whether this manager may do a leader's work now.
	IsLeader() bool
	// Conn returns a connection to the leader. Its error, of kind Unavailable,
	// is best made by RefuseNoLeader, which also names the unreachable. When ctx is
	// over it answers at once from what it knows. The connection stays the Leader's.
	Conn(ctx context.Context) (*grpc.ClientConn, error)
	// Following returns ctx for a call to the leader that Conn returns after it:
	// it ends, too, when that one leads no longer. A host that went dark would
	// keep the call for as long as its connection seems to stand.
	Following(ctx context.Context) (context.Context, context.CancelFunc)
	// Barrier returns when the replica holds all that was committed before it
	// was called.
	Barrier(ctx context.Context) error
	// StaleOK returns nil if the replica may answer from what it has (R18).
	StaleOK(ctx context.Context) error
	// Freshness describes the replica for the answer's header.
	Freshness() Freshness
}

// Config configures a Server. The zero value of every field but Log works.
type Config struct {
	// Credential is the node's own. Needed to serve TLS.
	Credential *ca.Holder
	// Authorizer judges nodes. Without one no node is let in. See SetOffice.
	Authorizer Authorizer
	// Leader carries calls. Without one, calls that need it are refused as by a
	// node that is no manager. See SetOffice.
	Leader Leader
	// Managers returns addresses of managers for that refusal. May be nil.
	Managers func() []string
	// Coming reports whether this node is a manager whose services are on their
	// way: it starts, or stops to be started again. What users ask for is then
	// unavailable, and not refused for good. May be nil.
	Coming func() bool
	// Shut says why this node serves nothing of a manager now, if there is a better
	// reason than that it is none. May be nil, and return nil.
	Shut func() error
	// UID is the user whose processes may use the unix socket, besides root. Zero
	// means the one this process runs as.
	UID uint32
	// Timeout is the deadline of a unary call that brings none. Zero means 30s.
	Timeout time.Duration
	// ElectionWait is how long a call waits for a leader. Zero means 2.5s, so that
	// a refusal comes within 3s and an ordinary election may succeed before it.
	ElectionWait time.Duration
	// Grace is how long past its end a member's certificate lives on (R14). Zero
	// means ExpiredGrace; negative means none.
	Grace time.Duration
	// Log receives the server's records. Required.
	Log *slog.Logger
}

func (c Config) filled() (Config, error) {
	if c.Log == nil {
		return c, errors.New("rpc server: log: missing")
	}
	if c.UID == 0 {
		c.UID = uint32(os.Geteuid())
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.ElectionWait == 0 {
		c.ElectionWait = defaultElection
	}
	if c.Grace == 0 {
		c.Grace = ExpiredGrace
	}
	if c.Credential == nil {
		c.Credential = &ca.Holder{}
	}
	return c, nil
}

// office is what changes when a node becomes a manager or ceases to be one.
type office struct {
	authorizer Authorizer
	leader     Leader
}

// A Server serves the same services on TLS and on the unix socket. Register
// services before the first Serve.
type Server struct {
	cfg     Config
	office  atomic.Pointer[office]
	tls     *grpc.Server
	unix    *grpc.Server
	streams registry
	meters  meters
	watched watched

	mu      sync.Mutex // guards the fields below; held for memory only
	methods map[string]*method
	slots   map[string]*slot
	fault   error
}

// NewServer returns a server that serves nothing yet.
func NewServer(cfg Config) (*Server, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, methods: map[string]*method{}, slots: map[string]*slot{}}
	s.SetOffice(cfg.Authorizer, cfg.Leader)
	s.tls = grpc.NewServer(s.options(newTLSCreds(cfg.Credential, cfg.Log))...)
	s.unix = grpc.NewServer(s.options(unixCreds{})...)
	return s, nil
}

// SetOffice replaces who judges nodes and who leads, when this node becomes a
// manager or ceases to be one. Either may be nil. Call Recheck after it.
func (s *Server) SetOffice(a Authorizer, l Leader) { s.office.Store(&office{authorizer: a, leader: l}) }

// RegisterService offers desc and serves it with impl: what the generated
// Register functions call. A fault is kept for Check.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.Offer(desc)
	s.Mount(desc, impl)
}

// Offer declares a service that nothing serves yet: until Mount its methods are
// refused as by a node that is no manager.
func (s *Server) Offer(desc *grpc.ServiceDesc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[desc.ServiceName] != nil {
		return
	}
	methods, err := policies(desc)
	if err != nil {
		s.fault = errors.Join(s.fault, err)
		return
	}
	for name, m := range methods {
		s.methods[name] = m
	}
	sl := &slot{server: s}
	s.slots[desc.ServiceName] = sl
	s.tls.RegisterService(sl.wrap(desc), nil)
	s.unix.RegisterService(sl.wrap(desc), nil)
}

// Mount makes impl serve an offered service from now on; nil unmounts it. Calls
// in flight end where they began.
func (s *Server) Mount(desc *grpc.ServiceDesc, impl any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[desc.ServiceName]
	if sl == nil {
		s.fault = errors.Join(s.fault, fmt.Errorf("service %s: mounted but never offered", desc.ServiceName))
		return
	}
	sl.set(impl)
}

// Check returns what was wrong with the services registered so far: above all
// methods without a policy. Serving returns the same.
func (s *Server) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// Services returns the names of the services offered, sorted.
func (s *Server) Services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name := range s.slots {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// ServeTLS serves nodes on l until Stop, or until l is closed; it may be called
// again with another listener. It closes l.
func (s *Server) ServeTLS(l net.Listener) error { return s.serve(s.tls, l) }

// ServeUnix serves users on l, a unix socket, as ServeTLS does.
func (s *Server) ServeUnix(l net.Listener) error { return s.serve(s.unix, l) }

func (s *Server) serve(g *grpc.Server, l net.Listener) error {
	if err := s.Check(); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Stop lets calls in flight end until ctx does, then cuts them, and returns when
// nothing of the server runs. Open streams are cut at once.
func (s *Server) Stop(ctx context.Context) {
	s.streams.cutAll(Errorf(errUnavailable, "the daemon is stopping"))
	var wg sync.WaitGroup
	wg.Go(s.tls.GracefulStop)
	wg.Go(s.unix.GracefulStop)
	cut := context.AfterFunc(ctx, func() { s.tls.Stop(); s.unix.Stop() })
	wg.Wait()
	cut()
}

func (s *Server) options(creds transportCreds) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.ChainUnaryInterceptor(s.meters.count, s.unary),
		grpc.ChainStreamInterceptor(s.meters.countStream, s.stream),
		grpc.InTapHandle(s.tap),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.ReadBufferSize(readBuffer(creds)),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		// Old connections are asked to go, so that renewed certificates come into
		// use (R17 gives the old one an hour); their open streams stay.
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:             math.MaxInt64, // mindSilence asks
			MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: math.MaxInt64,
		}),
	}
}
