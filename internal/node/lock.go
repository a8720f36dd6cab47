package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// errLocked is the refusal of what needs the keys of a locked manager.
func errLocked() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this manager is locked: the swarm's keys on it are sealed until it is given the unlock key"),
		`unlock it with "ctl swarm unlock"; a manager that is not locked shows the key with "ctl swarm unlock-key"`)
}

// shut says why a locked node serves nothing of a manager.
func (n *Node) shut() error {
	if n.keys.Locked() {
		return errLocked()
	}
	if w := n.waits(); w.on != nil {
		return errWaits(w)
	}
	if n.unfit() {
		return errUnfit()
	}
	return nil
}

// firstPhase is what a node is before it has begun to live: it answers earlier than
// that, and one that is in a swarm is never called inactive.
func (n *Node) firstPhase() localv1.State {
	switch _, _, err := n.keys.Who(); {
	case n.keys.Locked():
		return localv1.State_STATE_LOCKED
	case err == nil:
		return localv1.State_STATE_PENDING
	}
	if _, err := n.keys.LoadRequest(); err == nil {
		return localv1.State_STATE_PENDING
	}
	return localv1.State_STATE_INACTIVE
}

// beLocked waits for the unlock key, from the operator or from the unlock command.
// What runs goes on meanwhile; nobody looks after it.
func (n *Node) beLocked(ctx context.Context) {
	number, since := n.keys.Number()
	n.set(localv1.State_STATE_LOCKED, nil, nil)
	n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, `this manager is locked and waits for "ctl swarm unlock"`,
		slog.Uint64("key", number), slog.Time("since", since))
	ctx, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	told := make(chan sealed.Secret)
	if n.cfg.UnlockCommand != "" {
		asking.Go(func() { n.askCommand(ctx, told) })
	}
	for n.keys.Locked() {
		select {
		case <-ctx.Done():
			return
		case key := <-told:
			err := n.unlock(key)
			n.sawCommand(err)
			if err != nil {
				n.cfg.Log.LogAttrs(ctx, slog.LevelError, "the key that the unlock command printed does not unlock this manager", slog.Any("err", err))
			}
		case o := <-n.orders:
			o.done <- n.obey(ctx, o)
		}
	}
}

// sawCommand has what came of the unlock command's key in the audit trail, once
// this manager runs: nobody made a call.
func (n *Node) sawCommand(err error) {
	_, node, _ := n.keys.Who() // it is a locked manager's, which has an identity
	c := rpc.Caller{Kind: rpc.Node, Node: node, Method: "/skep.local.v1.Local/UnlockByCommand"}
	if err != nil {
		n.server.Saw(c, codes.PermissionDenied.String(), err.Error())
		return
	}
	n.server.Saw(c, "", "")
}

// unlock opens the keys with the key as people keep it.
func (n *Node) unlock(text sealed.Secret) error {
	key, err := sealed.ParseUnlockKey(text)
	if err != nil {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "%v", err), `a manager that is not locked shows the key with "ctl swarm unlock-key"`)
	}
	err = n.keys.Unlock(key)
	if number, since := n.keys.Number(); errors.Is(err, keystore.ErrWrongUnlockKey) {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "invalid unlock key: this manager is locked with the swarm's unlock key number %d, since %s",
			number, since.Local().Format("2006-01-02 15:04:05")),
			"if the key was rotated while this manager was down, it opens with the one from before, and takes the new one from the others then; without that key it must leave by force and join again")
	}
	return err
}

// Unlock gives a locked manager its unlock key.
func (l *local) Unlock(ctx context.Context, req *localv1.UnlockRequest) (*localv1.UnlockResponse, error) {
	if err := here(ctx); err != nil {
		return nil, err
	}
	key := sealed.NewSecret([]byte(req.GetUnlockKey()))
	o := order{
		before: func(context.Context, *life) error { return l.node.awaitsUnlock() },
		do:     func(context.Context) error { return l.node.unlock(key) },
		locked: true,
	}
	if err := l.node.give(ctx, o); err != nil {
		return nil, err
	}
	life, err := l.node.awaitLife(ctx)
	if err != nil {
		return nil, err
	}
	return &localv1.UnlockResponse{Node: life.who.Node.Bytes()}, nil
}

// awaitsUnlock refuses to unlock what is not locked.
func (n *Node) awaitsUnlock() error {
	if n.keys.Locked() {
		return nil
	}
	if _, _, err := n.keys.Who(); err != nil {
		return errInactive()
	}
	return rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is not locked")
}

// describeLock fills in what "ctl info" shows of the lock.
func (n *Node) describeLock(out *localv1.InfoResponse) {
	number, since := n.keys.Number()
	if number == 0 {
		return
	}
	out.LockNumber, out.LockSince = number, since.UnixNano()
	if !n.keys.Locked() {
		return
	}
	out.Role = modelv1.Role_ROLE_MANAGER // no other is locked
	if cluster, node, err := n.keys.Who(); err == nil {
		out.Cluster, out.Node = cluster.Bytes(), node.Bytes()
	}
}

// settleKeys seals the journal under the node's key, if a change of that was cut
// short before it.
func (n *Node) settleKeys(who ca.Identity) error {
	former := n.keys.Former()
	if former.IsZero() {
		return nil
	}
	err := agent.ResealJournal(filepath.Join(n.cfg.StateDir, agentDir), former, n.keys.KEK(), who.Cluster, who.Node)
	if err != nil {
		return err
	}
	return n.keys.Settle()
}

// unlockOf draws a first unlock key, if the settings of a new swarm want one.
func unlockOf(spec *modelv1.ClusterSpec) (key sealed.Secret, number uint64) {
	if !spec.GetAutolock() {
		return sealed.Secret{}, 0
	}
	return sealed.NewUnlockKey(), 1
}

// Relock seals this node's keys under another unlock key; in clear if it is zero.
// It does nothing if they are, or if number is of the past: a manager that has just
// started may not have heard yet how its keys were sealed last.
func (l *life) Relock(unlock sealed.Secret, number uint64) error {
	if number < l.node.keys.Heard() {
		return nil
	}
	return l.relock(unlock, number)
}

func (l *life) relock(unlock sealed.Secret, number uint64) error {
	if l.node.keys.LockedWith(unlock, number) {
		return nil
	}
	if err := l.node.keys.Relock(unlock, number, l.agent.Reseal); err != nil {
		return fmt.Errorf("lock the keys of node %s: %w", l.name(), err)
	}
	l.node.cfg.Log.Info("the node's keys are sealed under another key", slog.Uint64("unlock_key", number))
	return nil
}

// SaveRing keeps the data keys.
func (l *life) SaveRing(ring *logv1.Ring) error { return l.node.keys.SaveRing(ring) }

// unlockKey is the swarm's unlock key as people keep it; empty if it has none.
func (l *life) unlockKey() string {
	m := l.look().manager
	if m == nil {
		return ""
	}
	key, _ := m.UnlockKey()
	if key.IsZero() {
		return ""
	}
	return string(sealed.SpellUnlockKey(key).Reveal())
}

// fetchRing gets the data keys for a member that was away while they were replaced
// and cannot open what it was sent meanwhile. Its manager is opened again after it.
func (l *life) fetchRing(ctx context.Context) error {
	var resp *raftv1.RingResponse
	err := l.anyManager(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = raftv1.NewMembersClient(conn).Ring(ctx, &raftv1.RingRequest{})
		return err
	})
	if err != nil {
		return fmt.Errorf("get the data keys: %w", err)
	}
	if err := l.Relock(sealed.NewSecret(resp.GetUnlockKey()), resp.GetUnlockNumber()); err != nil {
		return err
	}
	ring, err := l.node.loadRing()
	if err != nil {
		return err
	}
	for _, k := range resp.GetRing().GetKeys() {
		if err := ring.Add(k.GetId(), sealed.NewSecret(k.GetKey())); err != nil {
			return fmt.Errorf("get the data keys: %w", err)
		}
	}
	return l.SaveRing(ring.Proto())
}
