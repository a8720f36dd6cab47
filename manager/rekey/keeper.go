package rekey

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

const (
	// beat is how often the leader looks without being woken: who answers is in no
	// record. retry is the rest after something could not be done.
	beat  = time.Second
	retry = 500 * time.Millisecond
	// roundTime bounds one look at what is to be done here.
	roundTime = 30 * time.Second
)

// A Vault is where this manager's own keys lie.
type Vault interface {
	// Relock seals them under an unlock key; in clear if it is zero. It does
	// nothing if they are.
	Relock(unlock sealed.Secret, number uint64) error
	// SaveRing keeps the data keys, durably.
	SaveRing(ring *logv1.Ring) error
}

// Config configures a Keeper. Every field is required.
type Config struct {
	// Self is this node.
	Self  id.ID
	Store *store.Store
	// Update runs one transaction.
	Update func(ctx context.Context, fn func(*store.Tx) error) error
	// Ring is the data keys as consensus uses them.
	Ring  *sealed.Ring
	Vault Vault
	// Renew has nothing on this disk be sealed under a key before the one given.
	Renew func(ctx context.Context, key uint32) error
	// Fetch asks the other managers for what they hold, one after the other until
	// take returns nil.
	Fetch func(ctx context.Context, take func(*raftv1.RingResponse) error) error
	// Report tells the leader what this manager holds.
	Report func(ctx context.Context, kept *raftv1.KeptRequest) error
	// Answers reports whether a member is heard by this manager.
	Answers func(raftID uint64) bool
	Log     *slog.Logger
}

// A Keeper keeps the keys of one manager.
type Keeper struct {
	cfg Config
	// saving is held while the ring is changed and kept: what is in the file must
	// not be less than what is used.
	saving sync.Mutex
	// drawn says that a key was drawn; capacity 1.
	drawn chan struct{}
}

// New returns a Keeper.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg, drawn: make(chan struct{}, 1)} }

// Run keeps the keys until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	w := k.cfg.Store.Watch(store.Key{Kind: store.KindCluster}, store.Key{Kind: store.KindMember})
	defer w.Close()
	said := ""
	for {
		w.Take()
		var again <-chan time.Time
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			again = time.After(retry)
			if said != err.Error() && !errdefs.IsUnavailable(err) {
				k.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the keys of this manager are not yet as they should be", slog.Any("err", err))
				said = err.Error()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
		case <-k.drawn:
		case <-again:
		}
	}
}

// round does what the record wants and is not so here, in the order in which it is
// safe: the lock, then the keys, then what they seal.
func (k *Keeper) round(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, roundTime)
	defer stop()
	snap := k.cfg.Store.Snapshot()
	c := snap.Cluster()
	if c == nil || snap.MemberByNode(k.cfg.Self) == nil {
		return nil // a learner that has not heard of itself
	}
	if err := k.cfg.Vault.Relock(sealed.NewSecret(c.GetUnlockKey()), c.GetUnlockNumber()); err != nil {
		return err
	}
	if err := k.gather(ctx, c); err != nil {
		return err
	}
	clean, err := k.tidy(ctx, c)
	if err != nil {
		return err
	}
	return k.report(ctx, c, clean)
}

// gather gets the keys that the record names and this manager lacks. A key that is
// only offered may have been lost with the leader that drew it.
func (k *Keeper) gather(ctx context.Context, c *modelv1.Cluster) error {
	for _, key := range []uint32{store.ActiveKey(c), c.GetDataKey().GetOffered()} {
		if _, held := k.cfg.Ring.Key(key); key == 0 || held {
			continue
		}
		if key == c.GetDataKey().GetOffered() && string(c.GetDataKey().GetDrawer()) == string(k.cfg.Self.Bytes()) {
			continue // nobody else has it
		}
		if err := k.fetch(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// fetch asks the others until one has given key, and keeps what it gave.
func (k *Keeper) fetch(ctx context.Context, key uint32) error {
	return k.cfg.Fetch(ctx, func(resp *raftv1.RingResponse) error {
		if !slices.ContainsFunc(resp.GetRing().GetKeys(), func(r *logv1.RingKey) bool { return r.GetId() == key }) {
			return rpc.Errorf(errdefs.ErrUnavailable, "it does not have data key %d", key)
		}
		return k.take(resp)
	})
}

// Missing brings the keys that an entry or a snapshot is sealed under, if a manager
// can be asked; see consensus.Config.MissingKey.
func (k *Keeper) Missing(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, roundTime)
	defer stop()
	if err := k.cfg.Fetch(ctx, k.take); err != nil && ctx.Err() == nil {
		k.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "no manager gave its data keys", slog.Any("err", err))
	}
	return nil
}

// take keeps the keys another manager gave, after the lock that it says they are to
// be under: this one may not have applied that entry yet.
func (k *Keeper) take(resp *raftv1.RingResponse) error {
	if err := k.cfg.Vault.Relock(sealed.NewSecret(resp.GetUnlockKey()), resp.GetUnlockNumber()); err != nil {
		return err
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	for _, r := range resp.GetRing().GetKeys() {
		if err := k.cfg.Ring.Add(r.GetId(), sealed.NewSecret(r.GetKey())); err != nil {
			return err
		}
	}
	return k.save()
}

// save keeps the ring. One that lacks its active key is not kept: there is more to
// come, and what was kept before is enough to ask for it. saving is held.
func (k *Keeper) save() error {
	ring := k.cfg.Ring.Proto()
	if _, held := k.cfg.Ring.Key(ring.GetActive()); !held {
		return rpc.Errorf(errdefs.ErrUnavailable, "data key %d is in use and was not given", ring.GetActive())
	}
	return k.cfg.Vault.SaveRing(ring)
}

// tidy has the disk and the ring forget the keys that are out of use, and returns
// the oldest that is left.
func (k *Keeper) tidy(ctx context.Context, c *modelv1.Cluster) (oldest uint32, err error) {
	active := store.ActiveKey(c)
	oldest = active
	for _, r := range k.cfg.Ring.Proto().GetKeys() {
		oldest = min(oldest, r.GetId())
	}
	if oldest == active || !c.GetDataKey().GetSettled() {
		return oldest, nil
	}
	if err := k.cfg.Renew(ctx, active); err != nil {
		return oldest, fmt.Errorf("write anew what older data keys sealed: %w", err)
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	k.cfg.Ring.Drop(func(key uint32) bool { return key >= active })
	if err := k.save(); err != nil {
		return oldest, err
	}
	k.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "nothing on this disk opens with a former data key any more", slog.Uint64("key", uint64(active)))
	return active, nil
}

// report tells the leader, if the record says otherwise.
func (k *Keeper) report(ctx context.Context, c *modelv1.Cluster, clean uint32) error {
	now := &raftv1.KeptRequest{Kept: k.cfg.Ring.Newest(), Clean: clean, Locked: c.GetUnlockNumber()}
	for _, h := range c.GetKeyHolders() {
		if string(h.GetNode()) == string(k.cfg.Self.Bytes()) && h.GetKept() == now.GetKept() && h.GetClean() == now.GetClean() && h.GetLocked() == now.GetLocked() {
			return nil
		}
	}
	return k.cfg.Report(ctx, now)
}

// Kept records what a manager said of itself; on the leader.
func (k *Keeper) Kept(ctx context.Context, node id.ID, kept *raftv1.KeptRequest) error {
	return k.note(ctx, node, func(h *modelv1.KeyHolder) {
		h.Kept, h.Clean, h.Locked = kept.GetKept(), kept.GetClean(), kept.GetLocked()
	})
}

// Give records that a node is given the data keys, before it is; on the leader.
func (k *Keeper) Give(ctx context.Context, node id.ID) error {
	return k.note(ctx, node, func(*modelv1.KeyHolder) {})
}

func (k *Keeper) note(ctx context.Context, node id.ID, change func(*modelv1.KeyHolder)) error {
	err := k.cfg.Update(ctx, func(tx *store.Tx) error {
		c := proto.CloneOf(tx.Cluster())
		edit(c, node.Bytes(), change)
		if proto.Equal(c, tx.Cluster()) {
			return nil
		}
		return tx.PutCluster(c)
	})
	if err != nil {
		return fmt.Errorf("note the keys of node %s: %w", node, err)
	}
	return nil
}

// Tenure takes the steps of a rotation until ctx ends; on the leader.
func (k *Keeper) Tenure(ctx context.Context) error {
	w := k.cfg.Store.Watch(store.Key{Kind: store.KindCluster}, store.Key{Kind: store.KindMember}, store.Key{Kind: store.KindNode})
	defer w.Close()
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		w.Take()
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the rotation of the data key waits", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.C():
		case <-t.C:
		}
	}
}

// step takes the next step there is. What is planned is planned again on what the
// transaction reads: the record may have moved.
func (k *Keeper) step(ctx context.Context) error {
	next := plan(k.look(k.cfg.Store.Snapshot()))
	if next.draw > 0 {
		return k.draw(k.cfg.Store.Snapshot().Cluster(), next.draw)
	}
	if next.change == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, roundTime)
	defer stop()
	taken := false
	err := k.cfg.Update(ctx, func(tx *store.Tx) error {
		again := plan(k.look(tx.Snapshot))
		if taken = again.change != nil && again.says == next.says; !taken {
			return nil
		}
		c := proto.CloneOf(tx.Cluster())
		again.change(c)
		return tx.PutCluster(c)
	})
	if err != nil {
		return err
	}
	if taken {
		c := k.cfg.Store.Snapshot().Cluster()
		k.cfg.Log.LogAttrs(ctx, next.level, "a step of the data keys was taken", slog.String("step", next.says), slog.Uint64("active", uint64(store.ActiveKey(c))),
			slog.Uint64("offered", uint64(c.GetDataKey().GetOffered())), slog.String("reason", c.GetDataKey().GetReason()))
	}
	return nil
}

// draw makes a data key and keeps it, under the lock there is, before anybody hears
// of its number.
func (k *Keeper) draw(c *modelv1.Cluster, number uint32) error {
	if err := k.cfg.Vault.Relock(sealed.NewSecret(c.GetUnlockKey()), c.GetUnlockNumber()); err != nil {
		return err
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	key := make([]byte, sealed.KeyBytes)
	_, _ = rand.Read(key) // never fails: the runtime ends the process when there is no randomness
	ring := k.cfg.Ring.Proto()
	ring.Keys = append(ring.GetKeys(), &logv1.RingKey{Id: number, Key: key})
	if err := k.cfg.Vault.SaveRing(ring); err != nil {
		return err
	}
	// Only now can anybody get it: one that was given and then lost would be drawn
	// again.
	if err := k.cfg.Ring.Add(number, sealed.NewSecret(key)); err != nil {
		return err
	}
	select {
	case k.drawn <- struct{}{}: // that it is kept here is to be said
	default:
	}
	return nil
}

// look is what a plan is made from.
func (k *Keeper) look(snap *store.Snapshot) world {
	w := world{
		cluster: snap.Cluster(), newest: k.cfg.Ring.Newest(), self: string(k.cfg.Self.Bytes()),
		held: func(key uint32) bool { _, ok := k.cfg.Ring.Key(key); return ok },
		wanted: func(node string) bool {
			n, err := id.FromBytes([]byte(node))
			return err == nil && snap.Node(n).GetSpec().GetRole() == modelv1.Role_ROLE_MANAGER
		},
	}
	for m := range snap.Members() {
		w.managers = append(w.managers, manager{
			node: string(m.GetNode()), voter: m.GetVoter(),
			answers: string(m.GetNode()) == string(k.cfg.Self.Bytes()) || k.cfg.Answers(m.GetRaftId()),
		})
	}
	return w
}
