package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// EntryBytes is the most plaintext an entry carries.
	EntryBytes = 1 << 20
	// waitingBytes and waitingCount bound what waits to be merged into entries.
	// At either bound Propose blocks until there is room or its context ends.
	waitingBytes = 32 << 20
	waitingCount = 16384
	// freeBytes is the space below which proposals are refused (R23).
	freeBytes = 128 << 20
)

// defaultInterval is the number of entries between snapshots where nothing is set.
const defaultInterval = 10_000

// Snapshots is how snapshots are taken and kept.
type Snapshots struct {
	// Interval is the number of entries between two. Zero means 10,000.
	Interval uint64
	// Old is how many are kept besides the newest. One always is, in case the
	// newest turns out not to be whole.
	Old int
}

// A Machine is the replicated state. Calls come from one goroutine.
type Machine interface {
	// Apply changes the state by one committed entry and returns an error or
	// nil for each transaction. The slice may be nil if all were applied. An
	// entry without transactions moves the index only. It is deterministic.
	Apply(index uint64, clock int64, txs [][]byte) []error
	// Encode returns a function that writes the state as it is at the call; it
	// is run on another goroutine while Apply goes on.
	Encode() func(io.Writer) error
	// Restore replaces the whole state by what a function of Encode wrote.
	Restore(io.Reader) error
}

// A Transport carries messages to the other members. It may lose, delay,
// repeat and reorder them.
type Transport interface {
	// Run owns the transport's goroutines and gives h what comes in.
	Run(ctx context.Context, h Handler) error
	// Send takes messages without blocking; what does not fit is dropped.
	Send(msgs []*raftpb.Message)
	// SetPeer says at which address a member is reached; RemovePeer forgets it.
	SetPeer(raftID uint64, address string)
	RemovePeer(raftID uint64)
}

// A Handler takes what a Transport receives and notices. Runner is one.
type Handler interface {
	// Step takes a message of a peer. It blocks for memory only.
	Step(ctx context.Context, m *raftpb.Message) error
	// ReceiveSnapshot takes a snapshot message and the state file that its
	// manifest names. It returns when the file is durable and checked.
	ReceiveSnapshot(ctx context.Context, m *raftpb.Message, file io.Reader) error
	// OpenSnapshot opens the state file that a snapshot message's manifest names.
	OpenSnapshot(m *raftpb.Message) (io.ReadCloser, error)
	// ReportUnreachable says that messages to a peer were lost.
	ReportUnreachable(raftID uint64)
	// ReportSnapshot says how the sending of a snapshot ended.
	ReportSnapshot(raftID uint64, ok bool)
	// PeerGone says that the peer's process is dead as seen by oneself: its
	// stream broke and its address refuses (R22).
	PeerGone(raftID uint64)
}

// Config configures a Runner. Dir, Ring, Machine and Log are required; zero
// means the default for the rest.
type Config struct {
	// Dir is the directory that holds "raft", the directory of log and snapshots.
	Dir string
	// RaftID, Cluster, History and Node are required to make a directory. For
	// Open, zero means what the directory says; anything else must agree.
	RaftID uint64
	// Cluster is the cluster's id.
	Cluster id.ID
	// History is the cluster's history id (R1).
	History id.ID
	// Node is this node's id.
	Node id.ID
	// Ring is the cluster's data keys.
	Ring *sealed.Ring
	// Machine is the replicated state, empty when given.
	Machine Machine
	// Transport reaches the other members. Nil means there are none.
	Transport Transport
	// OnTenure, if set, is run in a goroutine of its own while this member leads
	// and has applied an entry of its term (R26). Its context ends with the
	// leadership; Run waits for it.
	OnTenure func(ctx context.Context, term uint64)
	// MissingKey, if set, is called again and again while an entry or a snapshot is
	// sealed under a data key that Ring does not hold, and brings the key if it can
	// (R20). Nothing is applied meanwhile. An error ends Run: the key is gone.
	MissingKey func(ctx context.Context) error
	// Tick is raft's clock. Zero means 50 ms.
	Tick time.Duration
	// ElectionTicks is the shortest silence before an election, in ticks. Zero means 12.
	ElectionTicks int
	// Snapshots says, each time it is asked, how snapshots are taken and kept: the
	// cluster's settings. Nil means the zero value.
	Snapshots func() Snapshots
	// SnapshotBytes is the size of entries between snapshots. Zero means 64 MiB.
	SnapshotBytes uint64
	// Margin is how many entries before a snapshot stay in memory for slow
	// followers, 16 MiB of them at most. Zero means half of what Snapshots says
	// is between two, 5,000 at most.
	Margin uint64
	// Clock says what entries are stamped with. Nil means time.Now.
	Clock func() time.Time
	// Log receives records. Required.
	Log *slog.Logger

	openLog func(dir string, log *slog.Logger) (logFile, logState, error)
}

func (c Config) filled() (Config, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Tick == 0 {
		c.Tick = 50 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 12
	}
	settings := c.Snapshots
	c.Snapshots = func() (s Snapshots) {
		if settings != nil {
			s = settings()
		}
		if s.Interval == 0 {
			s.Interval = defaultInterval
		}
		return s
	}
	if c.SnapshotBytes == 0 {
		c.SnapshotBytes = 64 << 20
	}
	if c.openLog == nil {
		c.openLog = openDisk
	}
	if c.Transport == nil {
		c.Transport = alone{}
	}
	if c.MissingKey == nil {
		c.MissingKey = func(context.Context) error { return nil }
	}
	return c, errors.Join(
		check(c.Dir != "", "dir: missing"),
		check(c.Ring != nil, "ring: missing"),
		check(c.Machine != nil, "machine: missing"),
		check(c.Log != nil, "log: missing"),
		check(c.Tick >= time.Millisecond, "tick %v: below 1ms", c.Tick),
		check(c.ElectionTicks >= 3, "election ticks %d: below 3", c.ElectionTicks))
}

// named returns c if it can make a directory.
func (c Config) named() (Config, error) {
	c, err := c.filled()
	return c, errors.Join(err,
		check(c.RaftID != 0, "raft id: missing"),
		check(!c.Cluster.IsZero(), "cluster id: missing"),
		check(!c.History.IsZero(), "history id: missing"),
		check(!c.Node.IsZero(), "node id: missing"))
}

// maxMargin is the greatest margin that nobody asked for.
const maxMargin = 5_000

func (c Config) margin() uint64 {
	if c.Margin > 0 {
		return c.Margin
	}
	return min(maxMargin, c.Snapshots().Interval/2)
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("consensus: "+format, args...)
}

// alone is the transport of a cluster of one.
type alone struct{}

func (alone) Run(ctx context.Context, _ Handler) error { <-ctx.Done(); return nil }
func (alone) Send([]*raftpb.Message)                   {}
func (alone) SetPeer(uint64, string)                   {}
func (alone) RemovePeer(uint64)                        {}
