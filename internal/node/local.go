package node

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager/witness"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// local answers for this daemon, on its own socket only.
type local struct {
	localv1.UnimplementedLocalServer
	node *Node
}

// here refuses whoever is not at this node's own socket: what these methods do
// is done to this machine.
func here(ctx context.Context) error {
	if c, ok := rpc.FromContext(ctx); ok && c.Local {
		return nil
	}
	return rpc.Errorf(errdefs.ErrPermissionDenied, "this is done on the node's own socket only")
}

// Info says what this daemon knows of itself.
func (l *local) Info(ctx context.Context, _ *localv1.InfoRequest) (*localv1.InfoResponse, error) {
	if err := here(ctx); err != nil {
		return nil, err
	}
	phase, life, fault := l.node.get()
	out := &localv1.InfoResponse{
		State: phase, Hostname: l.node.cfg.Hostname, Version: version.Version, StateDir: l.node.cfg.StateDir,
		Fips: l.node.cfg.FIPS, FipsModule: l.node.cfg.FIPSModule,
	}
	if fault != nil {
		out.Error = fault.Error()
	}
	l.node.describeLock(out)
	if life != nil {
		life.describe(out)
	} else {
		l.node.describeWait(out)
	}
	return out, nil
}

// Init starts a swarm of one, or a new one from what a lost quorum left.
func (l *local) Init(ctx context.Context, req *localv1.InitRequest) (*localv1.InitResponse, error) {
	if err := here(ctx); err != nil {
		return nil, err
	}
	if err := checkSpec(req.GetSpec()); err != nil {
		return nil, err
	}
	by := witness.Deed(ctx)
	o := order{before: l.node.refuseIfTaken, do: func(ctx context.Context) error { return l.node.found(ctx, req, by) }}
	if req.GetForceNewCluster() {
		o = order{before: refuseIfNoManager, do: func(ctx context.Context) error { return l.node.refound(ctx, req, by) }}
	}
	if err := l.node.give(ctx, o); err != nil {
		return nil, err
	}
	life, err := l.node.awaitLife(ctx)
	if err != nil {
		return nil, err
	}
	token, address, err := life.leads(ctx)
	if err != nil {
		return nil, err
	}
	life.heard(ctx)
	return &localv1.InitResponse{Node: life.who.Node.Bytes(), WorkerToken: token, Address: address, UnlockKey: life.unlockKey()}, nil
}

// checkSpec refuses settings that no cluster can live with.
func checkSpec(s *modelv1.ClusterSpec) error {
	switch {
	case s.GetHeartbeatPeriod() != 0 && time.Duration(s.GetHeartbeatPeriod()) < 100*time.Millisecond:
		return rpc.Errorf(errdefs.ErrInvalidArgument, "heartbeat period %v: below 100ms", time.Duration(s.GetHeartbeatPeriod()))
	case s.GetCertExpiry() != 0 && time.Duration(s.GetCertExpiry()) < ca.MinExpiry:
		return rpc.Errorf(errdefs.ErrInvalidArgument, "certificate expiry %v: below %v", time.Duration(s.GetCertExpiry()), ca.MinExpiry)
	case s.GetManagerCertExpiry() != 0 && time.Duration(s.GetManagerCertExpiry()) < ca.MinExpiry:
		return rpc.Errorf(errdefs.ErrInvalidArgument, "manager certificate expiry %v: below %v", time.Duration(s.GetManagerCertExpiry()), ca.MinExpiry)
	case s.GetDeadManagerRemoval() != 0 && time.Duration(s.GetDeadManagerRemoval()) < time.Minute:
		return rpc.Errorf(errdefs.ErrInvalidArgument, "dead manager removal %v: below 1m", time.Duration(s.GetDeadManagerRemoval()))
	}
	return nil
}

// Join enrols this machine by a token, or takes a member that has lost its
// managers to one of them.
func (l *local) Join(ctx context.Context, req *localv1.JoinRequest) (*localv1.JoinResponse, error) {
	if err := here(ctx); err != nil {
		return nil, err
	}
	token, err := ca.ParseToken(req.GetToken())
	if err != nil {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "%v", err), `a manager prints one with "ctl swarm join-token worker"`)
	}
	if len(req.GetRemotes()) == 0 {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "join: the address of a manager is missing")
	}
	returns := false // written by before, which is over when give returns
	o := order{
		before: func(ctx context.Context, life *life) error {
			if life != nil && l.node.waits().by(token) {
				return errCameIn
			}
			returns = life != nil
			return mayComeBack(ctx, life, token)
		},
		do: func(ctx context.Context) error {
			if returns {
				return l.node.comeBack(ctx, token, withPort(req.GetRemotes()))
			}
			if err := l.node.clear(ctx); err != nil {
				return err
			}
			return l.node.ask(ctx, token, req)
		},
	}
	err = l.node.give(ctx, o)
	if errors.Is(err, errCameIn) {
		err = nil
	}
	if w, waits := errors.AsType[*client.Waiting](err); waits {
		return &localv1.JoinResponse{Node: w.Node.Bytes(), PendingKey: w.Key[:], PendingUntil: w.Until.UnixNano()}, nil
	}
	if err != nil {
		return nil, err
	}
	life, err := l.node.awaitLife(ctx)
	if err != nil {
		return nil, err
	}
	role, err := life.joined(ctx)
	if err != nil {
		return nil, err
	}
	return &localv1.JoinResponse{Node: life.who.Node.Bytes(), Role: role, Returned: returns}, nil
}

// Leave takes this node out of its swarm.
func (l *local) Leave(ctx context.Context, req *localv1.LeaveRequest) (*localv1.LeaveResponse, error) {
	if err := here(ctx); err != nil {
		return nil, err
	}
	o := order{
		before: func(ctx context.Context, life *life) error {
			if life == nil {
				return l.node.mayLeaveUnlived(req.GetForce())
			}
			return life.depart(ctx, req.GetForce())
		},
		do: l.node.wipe, locked: true,
	}
	if err := l.node.give(ctx, o); err != nil {
		return nil, err
	}
	return &localv1.LeaveResponse{}, nil
}

// refuseIfMember refuses what only a node outside a swarm can do.
func refuseIfMember(_ context.Context, life *life) error {
	if life == nil {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is already part of a swarm"),
		`leave it with "ctl swarm leave" first`)
}

// refuseIfNoManager refuses to make a new cluster from a node that has no copy
// of the state of one.
func refuseIfNoManager(_ context.Context, life *life) error {
	if life == nil {
		return errInactive()
	}
	if !life.hasLog() {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is not a manager: it has no copy of the swarm's state to start from"),
			"run it on the node that was a manager last")
	}
	return nil
}

// mayLeaveUnlived refuses to leave what was never joined, and, but by force, to
// give up what a locked manager holds.
func (n *Node) mayLeaveUnlived(force bool) error {
	switch _, err := n.keys.Load(); {
	case errors.Is(err, fs.ErrNotExist) && n.waits().on != nil:
		return nil
	case err == nil && !force && n.unfit() && n.hasLog():
		return errUnfit() // it cannot tell the others that it goes
	case errors.Is(err, fs.ErrNotExist):
		return errInactive()
	case errors.Is(err, keystore.ErrLocked) && !force:
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this manager is locked: it cannot tell the others that it goes, nor whether it is the last one"),
			`unlock it first with "ctl swarm unlock", or leave with "ctl swarm leave --force" and take it out of the others with "ctl node rm --force"`)
	}
	return nil
}

// awaitLife waits until the node lives with the identity it was given.
func (n *Node) awaitLife(ctx context.Context) (*life, error) {
	for {
		changed := n.next()
		phase, life, fault := n.get()
		switch {
		case life != nil:
			return life, nil
		case phase == localv1.State_STATE_ERROR:
			return nil, rpc.Errorf(errdefs.ErrUnavailable, "the node cannot start: %v", fault)
		}
		select {
		case <-ctx.Done():
			return nil, rpc.Errorf(errdefs.ErrUnavailable, `the node goes on starting in the background; see "ctl info"`)
		case <-changed:
		}
	}
}

// who is this node's id in words, for records.
func (l *life) name() string { return l.who.Node.String() }
