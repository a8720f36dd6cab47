package consensus

import (
	"fmt"
	"math"
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
	if err != nil {
		return nil, nil, err
	}
	if at := s.proven(); at > hs.GetCommit() {
		hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(at)}
	}
	return hs, conf, nil
}

// proven returns the index of the last membership change that the log itself
// proves committed: the one before the newest, because a leader proposes no
// change before it has applied the last. 0 means none.
//
// A commit index is not synced. A member that restarts and does not know that
// two changes are committed would campaign in a group that is two steps old,
// whose majority need not meet today's: an only voter would elect itself beside
// the leader that its group has since. Found by integration/sim; see also
// etcd-io/etcd#7625.
func (s view) proven() uint64 {
	before, _ := beforeNewest(0, s.all())
	return before
}

// all returns the entries of the log.
func (s view) all() []*raftpb.Entry {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err1 != nil || err2 != nil || last < first {
		return nil
	}
	entries, err := s.Entries(first, last+1, math.MaxUint64)
	if err != nil {
		return nil
	}
	return entries
}

// beforeNewest returns the indexes of the last two membership changes of a log
// to which entries are appended; known is that of the newest in it so far, 0 if
// there is none. A change that entries take the place of does not count.
func beforeNewest(known uint64, entries []*raftpb.Entry) (before, newest uint64) {
	if len(entries) > 0 && entries[0].GetIndex() <= known {
		known = 0
	}
	for _, e := range entries {
		if e.GetType() == raftpb.EntryConfChange {
			before, known = known, e.GetIndex()
		}
	}
	return before, known
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
