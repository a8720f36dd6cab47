package condemn

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// stepTime bounds one step.
	stepTime = 30 * time.Second
	// tokensAtOnce bounds an entry that revokes join tokens: each tells whom it let
	// in.
	tokensAtOnce = 10
)

// Config configures a Keeper. Every field is required.
type Config struct {
	Store *store.Store
	// Update runs one transaction.
	Update func(ctx context.Context, fn func(*store.Tx) error) error
	// Revoke ends a join token, for the reason given.
	Revoke func(tx *store.Tx, token id.ID, reason string) error
	// Rotate makes the root that msg asks for, and returns what writes its rotation
	// into c, the caller's own copy; at is log time.
	Rotate func(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (begin func(c *modelv1.Cluster, by string, at int64) error, err error)
	Log    *slog.Logger
}

// A Keeper carries condemnations on.
type Keeper struct{ cfg Config }

// New returns a Keeper.
func New(cfg Config) *Keeper { return &Keeper{cfg} }

// Step takes the next step there is; on the leader, again and again. It reads everything
// anew each time.
func (k *Keeper) Step(ctx context.Context) error {
	snap := k.cfg.Store.Snapshot()
	next := plan(snap)
	if next == wait {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, stepTime)
	defer stop()
	switch next {
	case endTokens:
		return k.take(ctx, next, "join tokens are revoked", k.endTokens)
	case putOut:
		return k.take(ctx, next, "the managers that may be compromised are none any more, and the data key is replaced", k.putOut)
	case replace:
		return k.replace(ctx, snap.Cluster())
	default:
		worker, manager := ca.NewTokenSecret(), ca.NewTokenSecret()
		return k.take(ctx, next, "nothing that the managers knew which may be compromised is worth anything any more",
			func(tx *store.Tx) error { return finish(tx, worker, manager) })
	}
}

// take does one step, unless the record has moved since it was planned.
func (k *Keeper) take(ctx context.Context, next action, says string, do func(*store.Tx) error) error {
	taken := false
	err := k.cfg.Update(ctx, func(tx *store.Tx) error {
		if taken = plan(tx.Snapshot) == next; !taken {
			return nil
		}
		return do(tx)
	})
	if err == nil && taken {
		k.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a step about managers that may be compromised was taken", slog.String("step", says))
	}
	return err
}

func (k *Keeper) endTokens(tx *store.Tx) error {
	reason := "manager " + Names(tx.Cluster().GetCondemnation().GetNodes()) + " may be compromised, and has the key of the root that it pins"
	for _, t := range liveTokens(tx.Snapshot, tokensAtOnce) {
		if err := k.cfg.Revoke(tx, t, reason); err != nil {
			return err
		}
	}
	return nil
}

// putOut removes who is to be removed, and has every data key there is replaced,
// unless that was wished since the last of the condemned could have got one.
func (*Keeper) putOut(tx *store.Tx) error {
	c := proto.CloneOf(tx.Cluster())
	x := c.GetCondemnation()
	for _, n := range x.GetNodes() {
		if n.GetRemove() {
			if err := tx.Delete(store.KindNode, n.GetNode()); err != nil {
				return err
			}
		}
	}
	if holds(c) || c.GetDataKey().GetStale() < x.GetDataKey() {
		var rest []*modelv1.KeyHolder
		for _, h := range c.GetKeyHolders() {
			if Find(x, h.GetNode()) == nil {
				rest = append(rest, h)
			}
		}
		c.KeyHolders = rest
		store.StaleKeys(c, "manager "+Names(x.GetNodes())+" may be compromised")
	}
	x.Step, x.StepAt = dataKey, tx.Base().Now().UnixNano()
	return tx.PutCluster(c)
}

// replace draws what the condemned knew anew, in one entry that they cannot open.
func (k *Keeper) replace(ctx context.Context, seen *modelv1.Cluster) error {
	x := seen.GetCondemnation()
	msg := &controlv1.RotateRootRequest{RequestId: newID(), Deadline: x.GetDeadline(), OnStraggler: x.GetOnStraggler(), Replace: seen.GetRoot().GetRotation() != nil}
	begin, err := k.rotate(ctx, seen, msg)
	if err != nil {
		return fmt.Errorf("rotate the root: %w", err)
	}
	unlock := sealed.NewUnlockKey()
	return k.take(ctx, replace, "the unlock key and the root are replaced", func(tx *store.Tx) error {
		c, at := proto.CloneOf(tx.Cluster()), tx.Base().Now().UnixNano()
		x := c.GetCondemnation()
		if x.GetStep() == dataKey {
			if x.Roots = nil; !elsewhere(c.GetRoot()) {
				x.Roots = known(c.GetRoot())
			}
			if x.Relocked = len(c.GetUnlockKey()) > 0; x.GetRelocked() {
				c.UnlockKey, c.UnlockNumber = unlock.Reveal(), c.GetUnlockNumber()+1
			}
		}
		x.Step, x.StepAt = root, at
		if begin != nil {
			x.Rotation = msg.GetRequestId()
			if err := begin(c, x.GetBy(), at); err != nil {
				return err
			}
		}
		return tx.PutCluster(c)
	})
}

// rotate has the next root made; nil if the one there is stays, for its key is not in
// the swarm.
func (k *Keeper) rotate(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (begin func(c *modelv1.Cluster, by string, at int64) error, err error) {
	if elsewhere(c.GetRoot()) {
		return nil, nil
	}
	return k.cfg.Rotate(ctx, c, msg)
}

// finish makes standing tokens anew, where there are to be any, and forgets the former
// roots: no token pins them any more.
func finish(tx *store.Tx, worker, manager sealed.Secret) error {
	c := proto.CloneOf(tx.Cluster())
	x, last := c.GetCondemnation(), c.GetRoot().GetLast()
	if len(x.GetRotation()) == 0 {
		last = nil // it is another's
	}
	c.Root.Former, c.Root.Via = nil, nil
	if !c.GetSpec().GetNoStandingTokens() {
		c.WorkerToken, c.ManagerToken = worker.Reveal(), manager.Reveal()
	}
	c.Condemnation, c.Condemned = nil, &modelv1.CondemnationEnd{
		Id: x.GetId(), Nodes: x.GetNodes(), StartedAt: x.GetStartedAt(), EndedAt: tx.Base().Now().UnixNano(),
		Stragglers: last.GetStragglers(), LeftBehind: last.GetLeftBehind(), Relocked: x.GetRelocked(),
	}
	return tx.PutCluster(c)
}

// newID draws what a rotation is called.
func newID() []byte {
	return id.New().Bytes()
}
