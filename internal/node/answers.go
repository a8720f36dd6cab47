package node

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/rpc"
	caservice "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// offered is every service there may ever be on a node's server. All but local
// are mounted while the node is a manager.
var offered = []*grpc.ServiceDesc{
	&localv1.Local_ServiceDesc, &controlv1.Control_ServiceDesc, &caservice.Authority_ServiceDesc,
	&dispatchv1.Dispatch_ServiceDesc, &raftv1.Raft_ServiceDesc, &raftv1.Members_ServiceDesc,
}

// settled notes that a manager has answered this node: it is active.
func (n *Node) settled(l *life) {
	if phase, now, _ := n.get(); now == l && phase == localv1.State_STATE_PENDING {
		n.set(localv1.State_STATE_ACTIVE, l, nil)
	}
}

// leads waits until this node's manager does a leader's work, and returns a
// worker's token and the address to join at.
func (l *life) leads(ctx context.Context) (token, address string, err error) {
	for {
		v := l.look()
		if v.manager != nil {
			if err := v.manager.AwaitTenure(ctx); err != nil {
				return "", "", rpc.Errorf(errdefs.ErrUnavailable, `the manager goes on starting in the background; see "ctl info": %v`, err)
			}
			token, err := v.manager.JoinToken(modelv1.Role_ROLE_WORKER)
			if errdefs.IsNotFound(err) {
				return "", l.advertised(), nil // there are no standing ones
			}
			return token, l.advertised(), err
		}
		if v.fault != nil {
			return "", "", rpc.Errorf(errdefs.ErrUnavailable, "the manager cannot start: %v", v.fault)
		}
		select {
		case <-ctx.Done():
			return "", "", rpc.Errorf(errdefs.ErrUnavailable, `the node goes on starting in the background; see "ctl info"`)
		case <-v.changed:
		}
	}
}

// ownSession is how long one who founds a swarm waits for the node's own session. It
// leads without; why there is none stands in "ctl info".
const ownSession = 2 * time.Second

// heard waits until a manager has answered this node's session, ownSession at most:
// who asks right after "swarm init" is told that the node is active.
func (l *life) heard(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, ownSession)
	defer stop()
	for v := l.look(); v.wish == nil; v = l.look() {
		select {
		case <-ctx.Done():
			return
		case <-v.changed:
		}
	}
}

// joined waits until a manager has answered this node's session and, if it is to
// be a manager, until it votes. It returns what the node has become.
func (l *life) joined(ctx context.Context) (modelv1.Role, error) {
	for {
		v := l.look()
		switch {
		case v.revoked != "":
			return 0, rpc.Errorf(errdefs.ErrPermissionDenied, "the managers refuse this node: %s", v.revoked)
		case v.wish.GetRole() == modelv1.Role_ROLE_WORKER:
			return modelv1.Role_ROLE_WORKER, nil
		case v.wish.GetRole() == modelv1.Role_ROLE_MANAGER && v.manager != nil:
			if err := v.manager.AwaitVote(ctx); err == nil {
				return modelv1.Role_ROLE_MANAGER, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "the node has its certificate and goes on joining in the background%s", because(v.fault)),
				`see "ctl info" for how far it is`)
		case <-v.changed:
		}
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// hasLog reports whether this node has a copy of the swarm's state.
func (l *life) hasLog() bool { return l.node.hasLog() }

func (n *Node) hasLog() bool {
	f, err := readFacts(n.state)
	return err == nil && f.Member > 0
}

// leaveTime bounds how long a manager that leaves waits to be taken out.
const leaveTime = 8 * time.Second

// depart prepares to leave: a manager is taken out of the group first, if the
// others can be reached. A manager leaves only by force, because what it takes
// along may be the quorum.
func (l *life) depart(ctx context.Context, force bool) error {
	v := l.look()
	if l.hasLog() {
		if !force {
			return l.refuseToLeave(v)
		}
		l.resign(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.farewell = modelv1.Farewell_FAREWELL_LEAVING
	return nil
}

// resign asks the others to take this manager out. A failure is logged by what
// follows: the operator has said force.
func (l *life) resign(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, leaveTime)
	defer stop()
	err := l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := raftv1.NewMembersClient(conn).Leave(ctx, &raftv1.LeaveRequest{})
		return err
	})
	if err != nil {
		l.node.cfg.Log.WarnContext(ctx, "leaving without being taken out of the managers", "err", err)
	}
}

// refuseToLeave says, with the numbers, what leaving would do.
func (l *life) refuseToLeave(v view) error {
	total := 1
	if v.manager != nil {
		total = v.manager.Voters()
	}
	if total <= 1 {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition,
			"this node is the last manager: when it leaves, the swarm's state is gone for good"),
			`"ctl swarm leave --force" does it all the same`)
	}
	left := total - 1
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition,
		"this node is one of %d managers: %d would be left, which bear the loss of %d", total, left, (left-1)/2),
		`demote it first with "ctl node demote", or leave with "ctl swarm leave --force"`)
}
