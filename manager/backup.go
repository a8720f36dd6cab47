package manager

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/backup"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// quorumWait bounds the wait for the quorum's word that a backup holds all that
// was committed before it.
const quorumWait = 2500 * time.Millisecond

// Backup writes the whole state, keys included, in clear: as it is at a moment
// after the call began, or, if stale, as this manager has it. Writes go on.
func (m *Manager) Backup(ctx context.Context, w io.Writer, stale bool) error {
	if !stale {
		wait, stop := context.WithTimeout(ctx, quorumWait)
		defer stop()
		if err := (office{m}).Barrier(wait); err != nil {
			return err
		}
	}
	_, err := backup.Write(w, m.store.Snapshot(), backup.About{Node: m.cfg.Node, At: time.Now(), Stale: stale})
	return err
}

// restoreGap is how far the first index of a restored cluster is above the
// backup's: more entries than any cluster writes between a backup and its loss
// (at 10,000 a second, in three years). So what the lost history made after the
// backup is not newer than the restored state, and no fencing token is given out
// twice (R8).
const restoreGap = 1 << 40

// Restore makes the log of a cluster founded again on the state in s: another
// history, the same ids, tokens, services and root. self is the record of the one
// manager's node, l.Node. All others are workers that nobody has heard since. It
// returns the index it begins at, and uses s up.
func Restore(l Log, s *store.Store, self *modelv1.Node, address string) (uint64, error) {
	snap := s.Snapshot()
	began := snap.Index() + restoreGap
	txs, err := one(l.By, append(renew(snap, l, address, self), unheard(snap, l, snap.Now())...))
	if err != nil {
		return 0, err
	}
	return began, consensus.Plant(l.config(s), began, txs)
}

// unheard takes back what the state says of the lives of nodes: it was true when
// the backup was made. A node that was Down has not been heard since either.
func unheard(snap *store.Snapshot, l Log, now time.Time) []*logv1.Operation {
	var ops []*logv1.Operation
	for n := range snap.Nodes() {
		if n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_DOWN || string(n.GetId()) == string(l.Node.Bytes()) {
			continue
		}
		status := &modelv1.NodeStatus{}
		if n.GetStatus() != nil {
			status = proto.CloneOf(n.GetStatus())
		}
		status.State, status.Message = modelv1.NodeState_NODE_STATE_UNKNOWN, "not heard since the swarm was restored from a backup"
		status.LostSince, status.Farewell = now.UnixNano(), modelv1.Farewell_FAREWELL_UNSPECIFIED
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: n.GetId(), Status: status}}})
	}
	return ops
}
