// Package control is the public API of a swarm: it checks what users ask for,
// fills in the defaults, writes it down, and shows what is.
//
// It writes what operators own (node and cluster specs, services and their
// revisions, users) and leaves to others what follows from that: reconcile makes and
// places tasks, membership changes the raft group, dispatch hears of nodes. Who
// may call, and on which manager, is rpc's to say.
//
// Invariants: what is stored is complete and valid, so nobody after control need
// check it; a changing request is done once however often it is sent (R10); no
// key and no token leaves but by the four methods that show and rotate join tokens
// and the unlock key; a user's
// certificate leaves only after its record was committed (D8).
package control

import (
	"errors"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/control/events"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Group is the raft group as this manager sees it.
type Group interface {
	// Leader returns the raft id of the leader, 0 if none is known.
	Leader() uint64
	// Reachability says whether this manager can reach a member; it can reach
	// itself.
	Reachability(raftID uint64) controlv1.ManagerStatus_Reachability
	// MissedSince says since when this manager does not hear a member, in Unix
	// nanoseconds of its clock; 0 if it does.
	MissedSince(raftID uint64) int64
	// Contact returns nil while this manager hears the quorum, or has not for a
	// moment only; else a refusal that names who is missing.
	Contact() error
	// CanLose returns nil if the group keeps its quorum without the node's vote,
	// else an error with the numbers. Asked on the leader only.
	CanLose(node id.ID) error
}

// Decisions are what control must know of the deciders' rules.
type Decisions struct {
	// Constraint and Spread return what is wrong with a placement constraint or
	// preference, as typed.
	Constraint, Spread func(string) error
	// Revise makes a revision the target of a service and begins the update to
	// it; RollBack makes the previous one the target, or says why it cannot;
	// Resume goes on with a paused update, if there is one. Each changes the
	// caller's own copy; now is Unix nanoseconds.
	Revise   func(s *modelv1.Service, revision uint64, now int64)
	RollBack func(s *modelv1.Service, now int64) error
	Resume   func(s *modelv1.Service, now int64) bool
}

// Config configures a Server. Every field is required.
type Config struct {
	// Self is the node this manager is on.
	Self id.ID
	// DB is the state, and the way to change it.
	DB    *store.DB
	Group Group
	// Events is what happened lately; it observes DB's store.
	Events *events.Chronicle
	// Users makes the certificates of users.
	Users UserCA
	// Roots says how the root is rotated.
	Roots RootOffice
	// Condemn says what follows when a manager may be compromised.
	Condemn CondemnOffice
	// Managers returns whom agents and clients may dial (R15).
	Managers func(*store.Snapshot) *cav1.ManagerList
	// Seal signs a seal of the audit trail with the root's key or, if that is elsewhere,
	// with this manager's.
	Seal func(root *modelv1.RootCA, p audit.Purpose, s *audit.Seal) error
	Decisions
}

func (c Config) check() error {
	d := c.Decisions
	if c.Self.IsZero() || c.DB == nil || c.Group == nil || c.Events == nil || c.Users == nil || c.Roots == nil || c.Condemn == nil || c.Managers == nil || c.Seal == nil ||
		d.Constraint == nil || d.Spread == nil || d.Revise == nil || d.RollBack == nil || d.Resume == nil {
		return errors.New("control: every field of Config is required")
	}
	return nil
}

// A Server is the API on one manager. It keeps nothing of its own.
type Server struct {
	controlv1.UnimplementedControlServer

	cfg Config
}

// New returns the API.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Server{cfg: cfg}, nil
}

func (s *Server) snapshot() *store.Snapshot { return s.cfg.DB.Snapshot() }

// now is the time answers are given and updates begin at; never behind log time.
func now(snap *store.Snapshot) int64 { return snap.Now().UnixNano() }

// idOf returns the id of a stored object, whose bytes apply has checked.
func idOf(b []byte) id.ID {
	x, err := id.FromBytes(b)
	if err != nil {
		return id.ID{}
	}
	return x
}
