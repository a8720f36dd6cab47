// Package dispatch tells each node its work and hears what became of it (D5, D6).
//
// Every manager serves sessions: it sends a node what its own replica holds for
// it, and passes what the node says, beats and reports, on to the leader. The
// leader's desk keeps the leases and commits reports in batches. The way from
// sessions to the desk is the same whether the leader is another manager or
// this one. It does not choose work (schedule does) nor keep it (store does).
//
// Invariants: a session is sent nothing that a snapshot it was built from does
// not hold, and no smaller index after a greater one (R1); a beat is confirmed
// only when the leader has counted it (R2); a report is acknowledged only by
// the commit that holds it (R5).
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// Config configures a Server. Every field is required.
type Config struct {
	Store *store.Store
	// Commit proposes units none of which can conflict; it returns when they
	// are applied here.
	Commit func(ctx context.Context, units []*logv1.Unit) error
	// Raft is what sessions need to know of consensus.
	Raft Raft
	// Managers makes the list of managers that agents may dial (R15).
	Managers func(*store.Snapshot) *cav1.ManagerList
	// Hello is what this manager says first on every stream (R27).
	Hello func() *rpcv1.Hello
	// Self is this manager's node.
	Self id.ID
	Log  *slog.Logger
}

// Raft is what a Server needs to know of consensus.
type Raft interface {
	// Leader says whether this manager leads and, if it does not, who does.
	// changed is closed when the answer may be another one.
	Leader() (self bool, leader id.ID, changed <-chan struct{})
	// Dial returns a connection to the leader; the caller does not close it.
	Dial(ctx context.Context) (*grpc.ClientConn, error)
	// Barrier returns when this replica holds what was committed before the call.
	Barrier(ctx context.Context) error
	// TransferLeadership returns when another manager leads, who is told why.
	TransferLeadership(ctx context.Context, why string) error
	// InContact reports whether this manager is in contact with the quorum (R18).
	InContact() bool
}

// A Server is one manager's side of all sessions.
type Server struct {
	dispatchv1.UnimplementedDispatchServer

	cfg      Config
	sessions *sessions
	managers *roster

	mu       sync.Mutex // guards desk
	desk     *desk      // not nil while this manager's tenure lasts
	deskOpen chan struct{}
}

// New returns a Server that serves once Run is called.
func New(cfg Config) *Server {
	return &Server{
		cfg:      cfg,
		sessions: newSessions(),
		managers: &roster{changed: make(chan struct{})},
		deskOpen: make(chan struct{}),
	}
}

// Run keeps the manager list and the way to the leader until ctx ends. When it
// returns, every session has been told to go elsewhere.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.keepRoster(ctx) })
	g.Go(func() error { return s.runUplink(ctx) })
	<-ctx.Done()
	s.sessions.close("this manager stops")
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Tenure keeps the leader's desk until ctx ends: leases and the commits of what
// nodes report. At most one runs at a time.
func (s *Server) Tenure(ctx context.Context) error {
	d := newDesk(s.cfg)
	s.setDesk(d)
	defer s.setDesk(nil)
	return d.run(ctx)
}

// setDesk opens or closes the desk and wakes who waits for it.
func (s *Server) setDesk(d *desk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desk = d
	close(s.deskOpen)
	s.deskOpen = make(chan struct{})
}

// openDesk returns the desk, if this manager's tenure lasts, and a channel that
// is closed when that changes.
func (s *Server) openDesk() (*desk, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.desk, s.deskOpen
}
