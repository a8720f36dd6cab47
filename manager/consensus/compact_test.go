package consensus

import (
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// TestTheLogIsKeptForAFollowerThatIsBeingBroughtUp: while a snapshot is on its
// way the log goes on, and the entries after that snapshot are needed next; were
// they forgotten, there would be another snapshot, and one after that.
func TestTheLogIsKeptForAFollowerThatIsBeingBroughtUp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		follower Progress
		entry    int // bytes
		want     uint64
	}{
		{"all have all", Progress{Match: 1000, Active: true}, 10, 950},
		{"one is a little behind", Progress{Match: 960, Active: true}, 10, 950},
		{"one is far behind and there", Progress{Match: 400, Active: true}, 10, 400},
		{"one is far behind and gone", Progress{Match: 400}, 10, 950},
		{"one is sent a snapshot", Progress{Match: 10, Pending: 600, Active: true}, 10, 600},
		{"one needs what is forgotten", Progress{Match: 10, Active: true}, 10, 100},
		{"what it needs is too much", Progress{Match: 400, Active: true}, 1 << 20, 936},
		{"the margin itself is too much", Progress{Match: 1000, Active: true}, 1 << 20, 984},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := raft.NewMemoryStorage()
			if err := s.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(100)), Term: new(uint64(1))}}); err != nil {
				t.Fatal(err)
			}
			data := make([]byte, tt.entry)
			for i := uint64(101); i <= 1000; i++ {
				if err := s.Append([]*raftpb.Entry{{Index: &i, Term: new(uint64(1)), Data: data}}); err != nil {
					t.Fatal(err)
				}
			}
			r := &Runner{cfg: Config{Snapshots: func() Snapshots { return Snapshots{Interval: 100} }}, board: newBoard()}
			r.board.set(Status{Progress: map[uint64]Progress{1: {Match: 1000, Active: true}, 2: tt.follower}})
			if got := r.compactTo(s, 1000); got != tt.want {
				t.Errorf("the log is forgotten up to %d, want %d", got, tt.want)
			}
		})
	}
}
