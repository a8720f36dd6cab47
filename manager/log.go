package manager

import (
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Log says which log a directory is made for. Every field but By is required.
type Log struct {
	// Dir is the state directory.
	Dir string
	// RaftID is newly drawn (R24).
	RaftID                 uint64
	Cluster, History, Node id.ID
	Ring                   *sealed.Ring
	// By says who asks for it, for the audit trail. Bootstrap's is in its first
	// transaction.
	By  *logv1.Deed
	Log *slog.Logger
}

func (l Log) config(s *store.Store) consensus.Config {
	return consensus.Config{
		Dir: l.Dir, RaftID: l.RaftID, Cluster: l.Cluster, History: l.History, Node: l.Node,
		Ring: l.Ring, Machine: machine{s}, Log: l.Log,
	}
}

// ErrRolledBack is why a log that has lost what it held does not open (R24).
var ErrRolledBack = consensus.ErrRolledBack

// NewRaftID draws the id of a member.
func NewRaftID() uint64 { return consensus.NewRaftID() }

// Bootstrap makes the log of a new cluster's only manager; first is what it
// begins with.
func Bootstrap(l Log, first *logv1.Transaction) error {
	return consensus.Bootstrap(l.config(store.New()), first)
}

// JoinLog makes the empty log of a coming member.
func JoinLog(l Log) error { return consensus.JoinDir(l.config(store.New())) }

// Remove removes log and snapshots. What is not there is removed already.
func Remove(dir string) error { return consensus.Wipe(dir) }

// ForceNew makes a new cluster of one from this manager's log: another history,
// the same ids, tokens and root. The other managers are workers of it. It
// returns the index it begins at.
func ForceNew(l Log, address string) (uint64, error) {
	s := store.New()
	var began uint64
	err := consensus.ForceNew(l.config(s), func(index uint64) ([][]byte, error) {
		began = index
		snap := s.Snapshot()
		return one(l.By, renew(snap, l, address, snap.Node(l.Node)))
	})
	return began, err
}

// one is operations that stand or fall together, and who asks for them.
func one(by *logv1.Deed, ops []*logv1.Operation) ([][]byte, error) {
	tx, err := proto.Marshal(&logv1.Transaction{Units: []*logv1.Unit{{Operations: ops}}, Deed: by})
	return [][]byte{tx}, err
}

// renew is what differs between the old cluster and the new. self is the record
// of the one manager's node, nil if there is none.
func renew(snap *store.Snapshot, l Log, address string, self *modelv1.Node) []*logv1.Operation {
	cluster := proto.CloneOf(snap.Cluster())
	cluster.History = l.History.Bytes()
	if _, held := l.Ring.Key(store.ActiveKey(cluster)); !held {
		cluster.DataKey, cluster.KeyHolders = nil, nil // the ring is as new as the log
	}
	ops := []*logv1.Operation{{Op: &logv1.Operation_PutCluster{PutCluster: cluster}}}
	for m := range snap.Members() {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{
			Kind: store.KindMember, Key: store.MemberKey(m.GetRaftId()),
		}}})
	}
	for n := range snap.Nodes() {
		if string(n.GetId()) == string(l.Node.Bytes()) || n.GetSpec().GetRole() != modelv1.Role_ROLE_MANAGER {
			continue
		}
		worker := proto.CloneOf(n)
		worker.Role, worker.Spec.Role = modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_WORKER
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: worker}})
	}
	if self != nil {
		leader := proto.CloneOf(self)
		leader.Role, leader.Spec.Role = modelv1.Role_ROLE_MANAGER, modelv1.Role_ROLE_MANAGER
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: leader}})
	}
	return append(ops, &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{
		RaftId: l.RaftID, Node: l.Node.Bytes(), Address: address,
		Kind: modelv1.MemberKind_MEMBER_KIND_FULL, Voter: true, FeatureLevel: cluster.GetFeatureLevel(),
	}}})
}
