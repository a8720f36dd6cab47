package consensus

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Output is the work of one Flush. Appends are done in order, each durable
// before its responses go out; Applies are done in order; messages are sent in
// any order or lost.
type Output struct {
	Send   []*raftpb.Message
	Append []*Append
	Apply  []*Apply
	// Snapshot asks for a snapshot of what is applied, however recent the last
	// one is: a member that needs one is not in it.
	Snapshot bool
	// Soft is true if term, leader or membership may have changed.
	Soft bool
}

// An Append is to be made durable: snapshot first, then entries, then hard
// state. Then it is given to Storage (see Store), its responses are delivered,
// and Core.Appended is called.
type Append struct {
	HardState *raftpb.HardState // nil: unchanged
	Entries   []*raftpb.Entry
	Snapshot  *raftpb.Snapshot // nil: none
	// Replies are for other members.
	Replies []*raftpb.Message

	own   []*raftpb.Message
	since uint64 // tick at which it was handed out
}

// Store puts what a has made durable into the storage that the core reads.
func (a *Append) Store(s *raft.MemoryStorage) error {
	if a.Snapshot != nil {
		if err := s.ApplySnapshot(a.Snapshot); err != nil {
			return fmt.Errorf("store snapshot %d: %w", a.Snapshot.GetMetadata().GetIndex(), err)
		}
	}
	if err := s.Append(a.Entries); err != nil {
		return fmt.Errorf("store entries: %w", err)
	}
	if a.HardState != nil {
		return s.SetHardState(a.HardState)
	}
	return nil
}

// An Apply is committed entries to be applied in order.
type Apply struct {
	Entries []*raftpb.Entry

	reply *raftpb.Message
}

// view is the storage as raft sees it.
type view struct {
	*raft.MemoryStorage
	c    *Core
	conf *raftpb.ConfState
}

// InitialState is what the core starts from. Its membership may be newer than
// the snapshot's: that of a machine that lived on when the log was read again.
func (s view) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs, conf, err := s.MemoryStorage.InitialState()
	if s.conf != nil {
		conf = s.conf
	}
	return hs, conf, err
}

// Snapshot returns the newest snapshot to be sent. One that does not hold every
// member is of no use to those who joined since: they would refuse it. A new
// one is asked for, and raft tries again.
func (s view) Snapshot() (*raftpb.Snapshot, error) {
	snap, err := s.MemoryStorage.Snapshot()
	if err != nil {
		return nil, err
	}
	has := snap.GetMetadata().GetConfState()
	for _, m := range slices.Concat(s.c.conf.GetVoters(), s.c.conf.GetLearners()) {
		if !slices.Contains(has.GetVoters(), m) && !slices.Contains(has.GetLearners(), m) {
			s.c.out.Snapshot = true
			return nil, raft.ErrSnapshotTemporarilyUnavailable
		}
	}
	return snap, nil
}
