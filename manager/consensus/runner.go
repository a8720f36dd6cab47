package consensus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus/disk"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"
)

// logFile is what a Runner needs of a directory; disk.Log is one.
type logFile interface {
	Save(*raftpb.HardState, []*raftpb.Entry) error
	SaveSnapshot(*raftpb.Snapshot) error
	Install(*raftpb.Snapshot) error
	WriteState(name string, write func(io.Writer) error) (disk.Summary, error)
	ReceiveState(*logv1.Manifest, io.Reader) error
	OpenState(*logv1.Manifest) (io.ReadCloser, error)
	Release(old int) error
	Renew(*raftpb.Snapshot) error
	SetMark(*logv1.Mark) error
	Free() (uint64, error)
	Close() error
}

type logState = disk.State

func openDisk(dir string, log *slog.Logger) (logFile, logState, error) {
	l, st, err := disk.Open(dir, log)
	if err != nil {
		return nil, logState{}, err
	}
	return l, st, nil
}

// A Runner runs one member: it steps its core, appends to its log and applies
// to its Machine, in three goroutines, so that none waits for another's I/O.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	fates   *Fates
	applier *Applier // the apply goroutine's; Open's before
	inbox   *inbox
	appends *line[appendWork]
	applies *line[applyWork]
	applied marker
	board   *board

	disk  atomic.Pointer[openLog]
	core  *Core // the step goroutine's; Open's before
	noRun atomic.Bool
	full  atomic.Bool           // too little space is free (R23)
	lost  atomic.Pointer[error] // why the log cannot be written (R23)
	stop  chan struct{}         // closed when Run ends: nobody answers any more
	snaps chan snapshotWork     // capacity 1: one snapshot at a time; the next is due when it is done
	due   due                   // the apply goroutine's
	era   uint64                // the step goroutine's
	shown shown                 // the step goroutine's; Open's before

	durable durableState
	meters  meters
}

// openLog is a log as it was opened; after a failure another takes its place.
type openLog struct {
	logFile
	storage *raft.MemoryStorage
	era     uint64 // work of an earlier era is dropped
}

// Open reads the member's directory and restores the Machine. Nothing runs and
// nobody is heard until Run.
func Open(cfg Config) (*Runner, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	r := &Runner{
		cfg: cfg, log: cfg.Log, fates: &Fates{}, inbox: newInbox(), appends: newLine[appendWork](),
		applies: newLine[applyWork](), board: newBoard(), stop: make(chan struct{}), snaps: make(chan snapshotWork, 1),
	}
	file, st, err := cfg.openLog(filepath.Join(cfg.Dir, dirName), cfg.Log)
	if err != nil {
		return nil, err
	}
	if err := r.start(file, st); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

// start makes storage, applier and core of what a directory held.
func (r *Runner) start(file logFile, st logState) error {
	if err := r.adopt(st.Meta); err != nil {
		return err
	}
	r.applier = NewApplier(r.cfg.Machine, r.cfg.Ring, r.cfg.Cluster, r.cfg.History, r.fates)
	storage := raft.NewMemoryStorage()
	if st.Snapshot != nil {
		if err := storage.ApplySnapshot(st.Snapshot); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		if err := r.restore(file, st.Snapshot); err != nil {
			return err
		}
	}
	r.due.last = r.applier.Index()
	core, err := r.boot(&openLog{logFile: file, storage: storage}, st)
	if err != nil {
		return err
	}
	r.core = core
	r.show(core)
	return nil
}

// boot puts a core on a log.
func (r *Runner) boot(l *openLog, st logState) (*Core, error) {
	hs := st.HardState
	if c := r.applier.Index(); hs.GetCommit() < c {
		hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(c)}
	}
	if err := errors.Join(l.storage.Append(st.Entries), l.storage.SetHardState(hs)); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	if last, _ := l.storage.LastIndex(); last < r.applier.Index() {
		return nil, fmt.Errorf("start: the log ends at %d, but entry %d was applied: %w", last, r.applier.Index(), ErrRolledBack)
	}
	var conf *raftpb.ConfState
	if r.applier.Index() > 0 {
		conf = r.applier.Conf()
	}
	core, err := NewCore(CoreConfig{
		RaftID: r.cfg.RaftID, Cluster: r.cfg.Cluster, History: r.cfg.History, Ring: r.cfg.Ring,
		Storage: l.storage, Applied: r.applier.Index(), Conf: conf,
		ElectionTicks: r.cfg.ElectionTicks, ContactTicks: int(contactTime / r.cfg.Tick),
		Rand: mrand.New(mrand.NewPCG(random(), random())), Salt: rand.Reader, Incarnation: random(),
		Fates: r.fates, Log: r.log,
	})
	if err != nil {
		return nil, err
	}
	r.disk.Store(l)
	last, _ := l.storage.LastIndex() // a storage in memory gives no error
	r.durable.term.Store(hs.GetTerm())
	r.durable.committed.Store(hs.GetCommit())
	r.durable.last.Store(last)
	r.applied.raise(r.applier.Index())
	return core, nil
}

// contactTime is for how long a leader's word counts (R18).
const contactTime = 2 * time.Second

func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process when there is no randomness
	return binary.BigEndian.Uint64(b[:])
}

// adopt takes from the directory who this member is, and refuses to be another.
func (r *Runner) adopt(meta *logv1.WALMetadata) error {
	cluster, err1 := id.FromBytes(meta.GetCluster())
	history, err2 := id.FromBytes(meta.GetHistory())
	node, err3 := id.FromBytes(meta.GetNode())
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("log %s: its metadata: %w", r.cfg.Dir, err)
	}
	c := &r.cfg
	err := errors.Join(
		check(c.RaftID == 0 || c.RaftID == meta.GetRaftId(), "log %s is of member %016x, not %016x", c.Dir, meta.GetRaftId(), c.RaftID),
		check(c.Cluster.IsZero() || c.Cluster == cluster, "log %s is of cluster %s, not %s", c.Dir, cluster, c.Cluster),
		check(c.History.IsZero() || c.History == history, "log %s is of history %s, not %s", c.Dir, history, c.History),
		check(c.Node.IsZero() || c.Node == node, "log %s is of node %s, not %s", c.Dir, node, c.Node))
	c.RaftID, c.Cluster, c.History, c.Node = meta.GetRaftId(), cluster, history, node
	return err
}

// restore puts the Machine in the state of a snapshot.
func (r *Runner) restore(file logFile, snap *raftpb.Snapshot) error {
	m, err := ParseManifest(snap)
	if err != nil {
		return err
	}
	f, err := file.OpenState(m)
	if err != nil {
		return err
	}
	plain, err := sealed.NewReader(f, r.cfg.Ring, r.cfg.place())
	if err == nil {
		err = r.applier.Restore(snap, plain)
	}
	return errors.Join(err, f.Close())
}

func (c Config) place() sealed.Place {
	return sealed.Place{Cluster: c.Cluster, History: c.History, Purpose: "snapshot"}
}

// Identity returns who this member is, as its directory says.
func (r *Runner) Identity() (raftID uint64, cluster, history, node id.ID) {
	return r.cfg.RaftID, r.cfg.Cluster, r.cfg.History, r.cfg.Node
}

// Run runs the member until ctx ends, and then hands leadership over before it
// stops. An error means that this member cannot go on: it is a fault of the log
// or of the Machine. Everything Run started has ended when it returns.
func (r *Runner) Run(ctx context.Context) error {
	if r.noRun.Swap(true) {
		return errors.New("consensus: a Runner runs once")
	}
	defer close(r.stop)
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, run := errgroup.WithContext(inner)
	g.Go(func() error { return r.step(run) })
	g.Go(func() error { return r.append(run) })
	g.Go(func() error { return r.apply(run) })
	g.Go(func() error { return r.snapshot(run) })
	g.Go(func() error { return r.watchDisk(run) })
	g.Go(func() error { return r.holdOffice(ctx, run) })
	g.Go(func() error { return r.cfg.Transport.Run(run, r) })
	g.Go(func() error {
		select {
		case <-run.Done():
		case <-ctx.Done():
			r.leave(run)
		}
		end()
		return nil
	})
	err := g.Wait()
	r.abandon()
	return errors.Join(err, r.disk.Load().Close())
}

// leaveTime bounds the hand-over of leadership at the end.
const leaveTime = 3 * time.Second

// leave hands leadership over, if there is somebody to take it.
func (r *Runner) leave(ctx context.Context) {
	st, _ := r.board.get()
	if !st.Leading || len(st.Voters) < 2 {
		return
	}
	ctx, stop := context.WithTimeout(ctx, leaveTime)
	defer stop()
	if err := r.TransferLeadership(ctx, whyStops); err != nil {
		r.log.LogAttrs(ctx, slog.LevelInfo, "leadership was not handed over", slog.Any("err", err))
	}
}

// abandon ends what nobody will answer any more.
func (r *Runner) abandon() {
	for _, p := range r.inbox.take(false).proposals {
		p.end(Result{Err: fmt.Errorf("this manager stops: %w", ErrRefused)})
	}
	r.core.Abandon(fmt.Errorf("this manager stops: %w", errdefs.ErrUnavailable))
}
