package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// joinManagers gets what a member needs onto the disk: a manager's certificate,
// the ring and an empty log (R20). What was left of an attempt that was cut
// short is cleared first: a raft id is never used twice (R24).
func (l *life) joinManagers(ctx context.Context, v view) error {
	if !l.isManager() {
		// The wish has asked for the certificate. If it does not come, the record
		// may have one that never arrived here (R17): ask again.
		if l.pause(ctx, renewPatience, v.changed); ctx.Err() == nil && !l.changedSince(v) {
			l.renewer.Now(modelv1.Role_ROLE_MANAGER)
		}
		return nil
	}
	if err := l.node.clearManager(); err != nil {
		return err
	}
	raftID := manager.NewRaftID()
	resp, err := l.askToJoin(ctx, raftID)
	if err != nil {
		return err
	}
	return l.install(resp, raftID)
}

// isManager reports whether this node's certificate says manager.
func (l *life) isManager() bool {
	return l.node.holder.Get().Identity.Role == modelv1.Role_ROLE_MANAGER
}

// changedSince reports whether v is not the newest view.
func (l *life) changedSince(v view) bool {
	select {
	case <-v.changed:
		return true
	default:
		return false
	}
}

// askToJoin asks the leader for the ring. The leader dials this node back, so
// the port is served meanwhile.
func (l *life) askToJoin(ctx context.Context, raftID uint64) (*raftv1.JoinResponse, error) {
	listener, err := l.listen()
	if err != nil {
		return nil, err
	}
	l.node.server.Mount(&raftv1.Raft_ServiceDesc, &pinged{node: l.node})
	defer l.node.server.Mount(&raftv1.Raft_ServiceDesc, nil)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, sctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(sctx, l.node.server, listener) })
	resp, err := l.requestJoin(sctx, raftID)
	stop()
	return resp, errors.Join(err, g.Wait())
}

// pinged answers the leader's dial before there is a member to answer: the
// handshake alone proves who is here.
type pinged struct {
	raftv1.UnimplementedRaftServer
	node *Node
}

// Ping says hello.
func (p *pinged) Ping(context.Context, *raftv1.PingRequest) (*raftv1.PingResponse, error) {
	return &raftv1.PingResponse{Hello: p.node.hello(), Clock: time.Now().UnixNano()}, nil
}

// finishJoin runs the member that is installed and has it made a learner. It may
// be done again after a crash: the leader changes once (R24).
func (l *life) finishJoin(ctx context.Context, f facts) error {
	m, listener, err := l.openManager(ctx, f)
	if err != nil {
		return err
	}
	return l.runManager(ctx, m, listener, func(ctx context.Context) error {
		var err error
		if f.Member, err = l.becomeLearner(ctx, m.RaftID()); err != nil {
			return err
		}
		if err := f.write(l.node.state); err != nil {
			return err
		}
		return l.watchWish(ctx, m, f.Member)
	})
}

func (l *life) requestJoin(ctx context.Context, raftID uint64) (resp *raftv1.JoinResponse, err error) {
	ctx, stop := context.WithTimeout(ctx, joinTimeout)
	defer stop()
	err = l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err = raftv1.NewMembersClient(conn).Join(ctx, &raftv1.JoinRequest{
			Hello: l.node.hello(), RaftId: raftID, Address: l.advertised(),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("join the managers: %w", err)
	}
	return resp, nil
}

// renewPatience is how long a certificate of the new role is waited for before it
// is asked for again.
const renewPatience = 5 * time.Second

// joinTimeout bounds one attempt to join the managers.
const joinTimeout = 30 * time.Second

// install puts ring and empty log on the disk.
func (l *life) install(resp *raftv1.JoinResponse, raftID uint64) error {
	ring, err := sealed.RingFromProto(resp.GetRing())
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	history, err := id.FromBytes(resp.GetHistory())
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	f := facts{Installed: true}
	for _, p := range resp.GetPeers() {
		node, err := id.FromBytes(p.GetNode())
		if err != nil {
			return fmt.Errorf("join the managers: %w", err)
		}
		f.Peers = append(f.Peers, peer{RaftID: p.GetRaftId(), Node: node.String(), Address: p.GetAddress()})
	}
	// First, so that the ring never lies under a key that lies in clear.
	if err := l.Relock(sealed.NewSecret(resp.GetUnlockKey()), resp.GetUnlockNumber()); err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	if err := l.node.keys.SaveRing(resp.GetRing()); err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	err = manager.JoinLog(manager.Log{
		Dir: l.node.cfg.StateDir, RaftID: raftID, Cluster: l.who.Cluster, History: history, Node: l.who.Node,
		Ring: ring, Log: l.node.cfg.Log,
	})
	if err != nil {
		return fmt.Errorf("join the managers: %w", err)
	}
	return f.write(l.node.state)
}

// becomeLearner asks to be made a learner until it is, and returns the index of
// its record.
func (l *life) becomeLearner(ctx context.Context, raftID uint64) (uint64, error) {
	ctx, stop := context.WithTimeout(ctx, joinTimeout)
	defer stop()
	for {
		var resp *raftv1.ReadyResponse
		err := l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			resp, err = raftv1.NewMembersClient(conn).Ready(ctx, &raftv1.ReadyRequest{RaftId: raftID, Address: l.advertised()})
			return err
		})
		if err == nil {
			return resp.GetIndex(), nil
		}
		if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
			l.node.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "not let in among the managers", slog.Any("err", err))
			return 0, errNotWanted
		}
		if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return 0, fmt.Errorf("join the managers: %w", err)
		}
		l.pause(ctx, 200*time.Millisecond, nil)
	}
}

func (l *life) advertised() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.me.Facts.Advertise
}
