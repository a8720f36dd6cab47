package consensus

import (
	"sync/atomic"
	"time"

	"github.com/skep-project/skep/internal/meter"
)

// meters is what a Runner counts beside its work.
type meters struct {
	fsync      meter.Durations
	together   meter.Sizes // entries made durable by one write
	snapshots  meter.Durations
	noSnapshot meter.Counter
	leaders    meter.Counter
	snapBytes  atomic.Uint64
	free       atomic.Uint64
	ticked     atomic.Int64 // Unix nanoseconds
}

// Meters is what a member counted since it was opened.
type Meters struct {
	// Status is what the member knows of its group.
	Status Status
	// Fsync is how long each write of the log took until it was durable, and
	// Together how many entries it carried.
	Fsync, Together meter.Reading
	// Appends and Applies are how many pieces of work wait for the goroutines that
	// write the log and that apply it.
	Appends, Applies int
	// Snapshots is how long each took; NoSnapshot counts those that failed.
	Snapshots  meter.Reading
	NoSnapshot uint64
	// SnapshotBytes is the size of the newest taken here; 0 before the first.
	SnapshotBytes uint64
	// Leaders counts how often this member heard of a new leader.
	Leaders uint64
	// Free is how many bytes the file system of the log had free, at most a
	// second ago; 0 before it was looked at.
	Free uint64
	// Ticked is when the core was last given its time; zero before Run. It stands
	// still while the log cannot be written only if the step loop does.
	Ticked time.Time
}

// Meters returns what was counted. It waits for no disk.
func (r *Runner) Meters() Meters {
	m := &r.meters
	out := Meters{
		Status: r.Status(),
		Fsync:  m.fsync.Read(), Together: m.together.Read(),
		Appends: r.appends.len(), Applies: r.applies.len(),
		Snapshots: m.snapshots.Read(), NoSnapshot: m.noSnapshot.Value(), SnapshotBytes: m.snapBytes.Load(),
		Leaders: m.leaders.Value(), Free: m.free.Load(),
	}
	if at := m.ticked.Load(); at != 0 {
		out.Ticked = time.Unix(0, at)
	}
	return out
}

// snapshotEnded counts a snapshot.
func (r *Runner) snapshotEnded(w snapshotWork, took time.Duration, err error) {
	if err != nil {
		r.meters.noSnapshot.Inc()
		return
	}
	r.meters.snapshots.Observe(took)
	r.meters.snapBytes.Store(w.manifest.GetSize())
}
