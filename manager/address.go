package manager

import (
	"context"
	"log/slog"
	"time"

	"github.com/skep-project/skep/manager/store"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

const (
	// moveTime bounds one attempt to have this member's address recorded, and
	// moveRetry is the rest after one that failed.
	moveTime  = 5 * time.Second
	moveRetry = 2 * time.Second
)

// keepAddress keeps this member's record at the address it is reached at (D11).
func (m *Manager) keepAddress(ctx context.Context) error {
	w := m.store.Watch(store.Key{Kind: store.KindMember})
	defer w.Close()
	said := ""
	for {
		w.Take()
		var again <-chan time.Time
		if err := m.move(ctx); err != nil && ctx.Err() == nil {
			again = time.After(moveRetry)
			if err.Error() != said {
				said = err.Error()
				m.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "the managers do not know yet where this one is", slog.String("addr", m.cfg.Address), slog.Any("err", err))
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
		case <-again:
		}
	}
}

// move tells the leader where this member is, if its record says otherwise.
func (m *Manager) move(ctx context.Context) error {
	rec := m.store.Snapshot().Member(m.RaftID())
	if rec == nil || m.cfg.Address == "" || rec.GetAddress() == m.cfg.Address {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, moveTime)
	defer stop()
	o := office{m}
	if o.IsLeader() {
		return m.rooms.membership.Moved(ctx, m.cfg.Node, m.RaftID(), m.cfg.Address)
	}
	conn, err := o.Conn(ctx)
	if err != nil {
		return err
	}
	_, err = raftv1.NewMembersClient(conn).Move(ctx, &raftv1.MoveRequest{RaftId: m.RaftID(), Address: m.cfg.Address})
	return err
}
