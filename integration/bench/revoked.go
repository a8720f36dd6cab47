package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// The ways to revoke somebody, as they are typed.
const (
	nodeRm     = "node rm"
	nodeRevoke = "node update --revoke"
	userRm     = "user rm"
	nodeDemote = "node demote"
)

// The wanted are those who are to be revoked.
type wanted struct {
	swarm    *swarm
	managers []*process // those that are watched, and remain
	nodes    []*member  // two a trial
	spare    *process   // a manager besides, which is demoted and promoted again
}

// wanted has enough workers for all trials join, and one manager more.
func (s *stage) wanted(ctx context.Context, trials int) (*wanted, error) {
	f, err := enlist(ctx, s.swarm, 2*trials)
	if err != nil {
		return nil, err
	}
	w := &wanted{swarm: s.swarm, managers: s.swarm.managers[:s.managers:s.managers], nodes: f.members}
	w.spare, err = s.swarm.add(ctx)
	return w, err
}

// through is the API at the manager that a trial is asked for at: each in turn.
func (w *wanted) through(trial int) controlv1.ControlClient {
	return controlv1.NewControlClient(w.managers[trial%len(w.managers)].conn)
}

// nodeToRemove is a worker.
func (w *wanted) nodeToRemove(_ context.Context, trial int) (*act, error) {
	m := w.nodes[2*trial]
	return m.act(nodeRm, func(ctx context.Context) error {
		_, err := w.through(trial).RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: conn.RequestID(), Ref: m.node().String(), Force: true})
		return err
	}), nil
}

// nodeToRevoke is a worker whose certificates are declared void.
func (w *wanted) nodeToRevoke(_ context.Context, trial int) (*act, error) {
	m := w.nodes[2*trial+1]
	return m.act(nodeRevoke, func(ctx context.Context) error {
		_, err := w.through(trial).UpdateNode(ctx, &controlv1.UpdateNodeRequest{RequestId: conn.RequestID(), Ref: m.node().String(), Revoke: true})
		return err
	}), nil
}

// The counters of the sessions that a worker has: a new one is refused, as the
// older, without disturbing the one that is open.
const (
	openSession  = 1 << 40
	olderSession = 1
)

// act is what a worker has and wants: sessions.
func (m *member) act(name string, do func(context.Context) error) *act {
	return &act{
		name: name, do: do,
		dial: func(address string) (*grpc.ClientConn, error) {
			return rpc.Dial(address, rpc.ClientTLS(m.holder, rpc.Peer{}), rpc.Through(m.dial)...)
		},
		has:  []attempt{m.session(openSession)},
		asks: []request{{callsRefused, m.session(olderSession)}},
	}
}

// session opens a session with a counter.
func (m *member) session(counter uint64) attempt {
	return func(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
		stream, err := dispatchv1.NewDispatchClient(at).Session(ctx)
		if err != nil {
			return nil, err
		}
		hello := &rpcv1.Hello{Boot: m.node().Bytes()}
		err = stream.Send(&dispatchv1.SessionRequest{Beat: 1, Open: &dispatchv1.Open{Hello: hello, Session: counter}})
		if err != nil && !errors.Is(err, io.EOF) { // else the answer says why it is over
			return nil, err
		}
		first, err := stream.Recv()
		if end := first.GetEnd(); err == nil && end != nil {
			err = fmt.Errorf("the session was ended: %s", end.GetWords())
		}
		return func() error { _, err := stream.Recv(); return err }, err
	}
}

// userToRemove is an admin who follows events and the audit trail.
func (w *wanted) userToRemove(ctx context.Context, trial int) (*act, error) {
	key, err := ca.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("leaver%d", trial)
	resp, err := w.through(trial).CreateUser(ctx, &controlv1.CreateUserRequest{
		RequestId: conn.RequestID(), Name: name, Role: modelv1.UserRole_USER_ROLE_ADMIN, Csr: csr,
	})
	if err != nil {
		return nil, err
	}
	who, err := wallet.New(resp.GetIssued(), key, time.Now())
	if err != nil {
		return nil, err
	}
	return &act{
		name: userRm,
		dial: func(address string) (*grpc.ClientConn, error) {
			return rpc.Dial(address, rpc.UserTLS(who.Credential, rpc.Peer{}))
		},
		has:  []attempt{watchEvents, followAudit},
		asks: []request{{callsRefused, listNodes}, {callsRefused, watchEvents}},
		do: func(ctx context.Context) error {
			_, err := w.through(trial).RemoveUser(ctx, &controlv1.RemoveUserRequest{RequestId: conn.RequestID(), Ref: name})
			return err
		},
	}, nil
}

func watchEvents(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
	stream, err := controlv1.NewControlClient(at).WatchEvents(ctx, &controlv1.WatchEventsRequest{})
	return following(stream, err)
}

func followAudit(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
	stream, err := controlv1.NewControlClient(at).ReadAudit(ctx, &controlv1.ReadAuditRequest{Tail: 1, Follow: true})
	return following(stream, err)
}

// following reads the first message of a stream, which says that it is open.
func following[M any](stream grpc.ServerStreamingClient[M], err error) (func() error, error) {
	if err != nil {
		return nil, err
	}
	_, err = stream.Recv()
	return func() error { _, err := stream.Recv(); return err }, err
}

func listNodes(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
	_, err := controlv1.NewControlClient(at).ListNodes(ctx, &controlv1.ListNodesRequest{})
	return nil, err
}

// managerToDemote is the spare one, whose keys were copied. Its process runs on, as a
// worker; what is watched is what the copy is good for.
func (w *wanted) managerToDemote(ctx context.Context, trial int) (*act, error) {
	if err := w.swarm.turn(ctx, w.spare, modelv1.Role_ROLE_MANAGER); err != nil {
		return nil, err
	}
	if err := w.swarm.settled(ctx); err != nil {
		return nil, err
	}
	holder, err := w.swarm.copyKeys(w.spare, fmt.Sprintf("copy%d", trial))
	if err != nil {
		return nil, err
	}
	dial := func(address string) (*grpc.ClientConn, error) {
		return rpc.Dial(address, rpc.ClientTLS(holder, rpc.Peer{}))
	}
	raft, err := w.raft(ctx, dial)
	if err != nil {
		return nil, err
	}
	return &act{
		name: nodeDemote, dial: dial,
		has:  []attempt{raft},
		asks: []request{{callsRefused, witness}, {readsRefused, dataKeys}, {raftRefused, raft}},
		do: func(ctx context.Context) error {
			_, err := w.through(trial).UpdateNode(ctx, &controlv1.UpdateNodeRequest{
				RequestId: conn.RequestID(), Ref: filepath.Base(w.spare.dir), Role: modelv1.Role_ROLE_WORKER.Enum(),
			})
			return err
		},
	}, nil
}

// turn gives a process's node a role.
func (s *swarm) turn(ctx context.Context, p *process, role modelv1.Role) error {
	_, err := s.control().UpdateNode(ctx, &controlv1.UpdateNodeRequest{
		RequestId: conn.RequestID(), Ref: filepath.Base(p.dir), Role: role.Enum(),
	})
	return err
}

// copyKeys copies what keys lie on a process's disk, and returns what the copy is good
// for.
func (s *swarm) copyKeys(p *process, name string) (*ca.Holder, error) {
	to := filepath.Join(s.dir, name)
	if err := os.CopyFS(to, os.DirFS(filepath.Join(p.dir, "state", "keys"))); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only read
	keys, err := keystore.Open(dir)
	if err != nil {
		return nil, err
	}
	me, err := keys.Load()
	if err != nil {
		return nil, err
	}
	cred, err := me.Credential()
	if err != nil {
		return nil, err
	}
	holder := &ca.Holder{}
	holder.Set(cred)
	return holder, nil
}

// raft is to speak to a manager as the spare one does: by such a stream go votes and
// entries.
func (w *wanted) raft(ctx context.Context, dial func(address string) (*grpc.ClientConn, error)) (attempt, error) {
	nodes, err := w.swarm.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	members := map[string]uint64{} // by address
	for _, n := range nodes.GetNodes() {
		members[n.GetManager().GetAddress()] = n.GetManager().GetRaftId()
	}
	cc, err := dial(w.managers[0].address)
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	who, err := raftv1.NewRaftClient(cc).Ping(ctx, &raftv1.PingRequest{})
	if err != nil {
		return nil, err
	}
	hello := &rpcv1.Hello{Cluster: who.GetHello().GetCluster(), History: who.GetHello().GetHistory()}
	return func(ctx context.Context, at *grpc.ClientConn, to *process) (func() error, error) {
		stream, err := raftv1.NewRaftClient(at).Stream(ctx)
		if err != nil {
			return nil, err
		}
		err = stream.Send(&raftv1.StreamRequest{Hello: hello, From: members[w.spare.address], To: members[to.address]})
		if err != nil && !errors.Is(err, io.EOF) { // else the answer says why it is over
			return nil, err
		}
		_, err = stream.Recv()
		return func() error { _, err := stream.Recv(); return err }, err
	}, nil
}

// witness is what any manager may call and nobody else: here with nothing to say.
func witness(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
	_, err := raftv1.NewMembersClient(at).Witness(ctx, &raftv1.WitnessRequest{})
	return nil, err
}

// dataKeys are what a manager reads the log and snapshots with.
func dataKeys(ctx context.Context, at *grpc.ClientConn, _ *process) (func() error, error) {
	_, err := raftv1.NewMembersClient(at).Ring(ctx, &raftv1.RingRequest{})
	return nil, err
}
