package manager

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/rekey"
	"github.com/skep-project/skep/manager/store"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// keyed is the machine that puts a data key to use with the entry that says so,
// before anything after it is sealed (R20).
type keyed struct {
	counted
	ring *sealed.Ring
}

// Apply changes the state by one entry.
func (m keyed) Apply(index uint64, clock int64, txs [][]byte) []error {
	errs := m.counted.Apply(index, clock, txs)
	m.ring.Raise(store.ActiveKey(m.Snapshot().Cluster()))
	return errs
}

// Restore replaces the state.
func (m keyed) Restore(r io.Reader) error {
	err := m.counted.Restore(r)
	if err == nil {
		m.ring.Raise(store.ActiveKey(m.Snapshot().Cluster()))
	}
	return err
}

// newKeeper joins the keeper of the keys with what it needs.
func (m *Manager) newKeeper() *rekey.Keeper {
	o := office{m}
	return rekey.New(rekey.Config{
		Self: m.cfg.Node, Store: m.store, Ring: m.cfg.Ring, Vault: m.cfg.Vault, Renew: m.raft.Renew, Log: m.cfg.Log,
		Update: func(ctx context.Context, fn func(*store.Tx) error) error {
			_, err := m.db.Update(ctx, nil, fn)
			return err
		},
		Fetch: m.fetchRing, Report: m.reportKeys,
		Answers: func(raftID uint64) bool {
			s := m.raft.Status()
			return raftID == s.RaftID || s.Progress[raftID].Active && o.answers(raftID)
		},
	})
}

// fetchRing asks the other members for their data keys until take returns nil.
func (m *Manager) fetchRing(ctx context.Context, take func(*raftv1.RingResponse) error) error {
	errs := []error{rpc.Errorf(errdefs.ErrUnavailable, "no other manager gave its data keys")}
	for _, p := range m.others() {
		conn, err := m.links.to(p.Node, p.Address)
		if err == nil {
			ctx, stop := context.WithTimeout(ctx, ringTime)
			var resp *raftv1.RingResponse
			if resp, err = raftv1.NewMembersClient(conn).Ring(ctx, &raftv1.RingRequest{}); err == nil {
				err = take(resp)
			}
			stop()
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// others are the other members as the records say, or as the join told.
func (m *Manager) others() []Peer {
	var out []Peer
	for r := range m.store.Snapshot().Members() {
		if node, err := id.FromBytes(r.GetNode()); err == nil && node != m.cfg.Node {
			out = append(out, Peer{RaftID: r.GetRaftId(), Node: node, Address: r.GetAddress()})
		}
	}
	if len(out) > 0 {
		return out
	}
	return m.cfg.Peers
}

// reportKeys tells the leader what this manager holds.
func (m *Manager) reportKeys(ctx context.Context, kept *raftv1.KeptRequest) error {
	ctx, stop := context.WithTimeout(ctx, moveTime)
	defer stop()
	o := office{m}
	if o.IsLeader() {
		return m.keys.Kept(ctx, m.cfg.Node, kept)
	}
	conn, err := o.Conn(ctx)
	if err != nil {
		return err
	}
	_, err = raftv1.NewMembersClient(conn).Kept(ctx, kept)
	return err
}

// ringTime bounds asking one manager for its data keys.
const ringTime = moveTime

// UnlockKey is the swarm's unlock key and its number, as far as this manager has
// heard; zero if its managers are not locked.
func (m *Manager) UnlockKey() (key sealed.Secret, number uint64) {
	c := m.store.Snapshot().Cluster()
	return sealed.NewSecret(c.GetUnlockKey()), c.GetUnlockNumber()
}
