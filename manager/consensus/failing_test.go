package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// faultyDisk fails, hangs or lacks space when told to.
type faultyDisk struct {
	logFile
	fail  *atomic.Bool
	free  *atomic.Uint64
	gate  chan struct{} // nil, or every save waits for it
	syncs *atomic.Int64
}

var errDisk = errors.New("input/output error")

func (d faultyDisk) Save(hs *raftpb.HardState, es []*raftpb.Entry) error {
	if d.fail.Load() {
		return errDisk
	}
	if d.gate != nil && len(es) > 0 {
		<-d.gate
	}
	d.syncs.Add(1)
	return d.logFile.Save(hs, es)
}

func (d faultyDisk) Free() (uint64, error) { return d.free.Load(), nil }

// faulty makes cfg use a faulty disk.
func faulty(cfg Config, gate chan struct{}) (Config, faultyDisk) {
	d := faultyDisk{fail: &atomic.Bool{}, free: &atomic.Uint64{}, gate: gate, syncs: &atomic.Int64{}}
	d.free.Store(1 << 40)
	cfg.openLog = func(dir string, log *slog.Logger) (logFile, logState, error) {
		file, st, err := openDisk(dir, log)
		one := d
		one.logFile = file
		return one, st, err
	}
	return cfg, d
}

// bubble runs a test in a bubble of time with one running voter.
func bubble(t *testing.T, gated bool, test func(t *testing.T, r *Runner, d faultyDisk, m *ledger)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var gate chan struct{}
		if gated {
			gate = make(chan struct{}, 1000)
			gate <- struct{}{} // for the election
		}
		m := &ledger{}
		cfg := testConfig(t, m)
		if err := Bootstrap(cfg, nil); err != nil {
			t.Fatal(err)
		}
		cfg, d := faulty(cfg, gate)
		r := mustOpen(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		test(t, r, d, m)
	})
}

func TestAWriteThatFailedTakesTheMemberOutUntilTheLogIsReadAgain(t *testing.T) {
	t.Parallel()
	bubble(t, false, func(t *testing.T, r *Runner, d faultyDisk, m *ledger) {
		untilLeader(t, r)
		if _, err := r.Propose(t.Context(), []byte("one")); err != nil {
			t.Fatal(err)
		}
		d.fail.Store(true)
		if _, err := r.Propose(t.Context(), []byte("two")); !errors.Is(err, ErrUnknown) {
			t.Errorf("a proposal on its way when the disk failed: %v, want ErrUnknown", err)
		}
		if _, err := r.Propose(t.Context(), []byte("three")); !errors.Is(err, ErrLogFailed) {
			t.Errorf("a proposal after it: %v, want ErrLogFailed", err)
		}
		if _, err := r.ReadIndex(t.Context()); !errors.Is(err, ErrLogFailed) {
			t.Errorf("a read after it: %v, want ErrLogFailed", err)
		}
		if st := r.Status(); st.Failed == nil || st.InContact {
			t.Errorf("status says %+v", st)
		}
		d.fail.Store(false)
		time.Sleep(3 * retryLog)
		untilLeader(t, r)
		if _, err := r.Propose(t.Context(), []byte("four")); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(m.lines()); got != "[one four]" && got != "[one two four]" {
			t.Errorf("the machine holds %s", got)
		}
	})
}

func TestWritesAreRefusedWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	bubble(t, false, func(t *testing.T, r *Runner, d faultyDisk, _ *ledger) {
		untilLeader(t, r)
		d.free.Store(freeBytes - 1)
		time.Sleep(2 * checkDisk)
		if _, err := r.Propose(t.Context(), []byte("x")); !errors.Is(err, ErrDiskFull) {
			t.Errorf("with too little space: %v, want ErrDiskFull", err)
		}
		if _, err := r.ReadIndex(t.Context()); err != nil {
			t.Errorf("a read: %v", err)
		}
		d.free.Store(freeBytes)
		time.Sleep(2 * checkDisk)
		if _, err := r.Propose(t.Context(), []byte("x")); err != nil {
			t.Errorf("with space again: %v", err)
		}
	})
}

func TestOneWriteCarriesWhatCameDuringTheLast(t *testing.T) {
	t.Parallel()
	bubble(t, true, func(t *testing.T, r *Runner, d faultyDisk, m *ledger) {
		untilLeader(t, r)
		before := r.durable.entries.Load()
		const writers = 100
		done := make(chan error, writers)
		for i := range writers {
			go func() {
				_, err := r.Propose(t.Context(), fmt.Appendf(nil, "%d", i))
				done <- err
			}()
		}
		synctest.Wait() // one is being written, the others wait
		for range 10 {
			d.gate <- struct{}{}
		}
		for range writers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := r.durable.entries.Load() - before; n > 3 {
			t.Errorf("%d proposals made %d entries, want 3 at most", writers, n)
		}
		if m.len() != writers {
			t.Errorf("the machine holds %d, want %d", m.len(), writers)
		}
		for range 100 {
			d.gate <- struct{}{}
		}
	})
}

func TestACallerThatGoesLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	bubble(t, true, func(t *testing.T, r *Runner, d faultyDisk, m *ledger) {
		untilLeader(t, r)
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer stop()
		if _, err := r.Propose(ctx, []byte("x")); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("propose: %v, want ErrUnknown", err)
		}
		for range 100 {
			d.gate <- struct{}{}
		}
		if _, err := r.Propose(t.Context(), []byte("y")); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(m.lines()); got != "[x y]" {
			t.Errorf("the machine holds %s, want what was on its way too", got)
		}
	})
}

func TestATransactionLargerThanAnEntryIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, false, func(t *testing.T, r *Runner, _ faultyDisk, _ *ledger) {
		untilLeader(t, r)
		if _, err := r.Propose(t.Context(), make([]byte, EntryBytes+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("propose: %v, want ErrTooLarge", err)
		}
		if _, err := r.Propose(t.Context(), make([]byte, EntryBytes)); err != nil {
			t.Errorf("propose as much as an entry holds: %v", err)
		}
	})
}

func TestTenureBeginsAndEndsWithTheOffice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, &ledger{})
		begun, ended := make(chan uint64, 1), make(chan struct{})
		cfg.OnTenure = func(ctx context.Context, term uint64) {
			begun <- term
			<-ctx.Done()
			close(ended)
		}
		if err := Bootstrap(cfg, nil); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		if term := <-begun; term != r.Status().Term || !r.Status().Tenured {
			t.Errorf("tenure of term %d begins, status is %+v", term, r.Status())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		default:
			t.Error("Run returned before the tenure had ended")
		}
	})
}

func TestBootstrapAppliesItsFirstTransactionAndRefusesASecondTime(t *testing.T) {
	t.Parallel()
	m := &ledger{}
	cfg := testConfig(t, m)
	first := &logv1.Transaction{Request: &logv1.Request{Caller: "init"}}
	if err := Bootstrap(cfg, first); err != nil {
		t.Fatal(err)
	}
	if err := Bootstrap(cfg, first); err == nil {
		t.Error("a directory was made where one is")
	}
	r := mustOpen(t, cfg)
	running(t, r)
	untilLeader(t, r)
	want, err := proto.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.lines(); len(got) != 1 || got[0] != string(want) {
		t.Errorf("the machine holds %q, want %q", got, want)
	}
}

func TestAPlantedClusterGoesOnFromAStateThatCameFromElsewhere(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, &ledger{Index: 7, Lines: []string{"from", "elsewhere"}})
	const began = 1 << 40
	if err := Plant(cfg, began, [][]byte{[]byte("no")}); err == nil {
		t.Error("a first entry that conflicts was taken")
	}
	if err := Plant(cfg, began+1, [][]byte{[]byte("planted")}); err != nil {
		t.Fatal(err)
	}
	if err := Plant(cfg, began+2, nil); err == nil {
		t.Error("a directory was made where one is")
	}
	m := &ledger{}
	cfg.Machine = m
	r := mustOpen(t, cfg)
	stop := running(t, r)
	untilLeader(t, r)
	index, err := r.Propose(within(t, 5*time.Second), []byte("more"))
	if err != nil || index <= began+1 {
		t.Errorf("the first proposal: index %d, %v", index, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	m = &ledger{}
	cfg.Machine = m
	r = mustOpen(t, cfg)
	running(t, r)
	untilLeader(t, r)
	if got := fmt.Sprint(m.lines()); got != "[from elsewhere planted more]" {
		t.Errorf("after a restart the machine holds %s", got)
	}
	if st := r.Status(); len(st.Voters) != 1 || st.Voters[0] != cfg.RaftID {
		t.Errorf("its voters are %v", st.Voters)
	}
}

func TestForceNewKeepsAllThatTheMemberHeld(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, &ledger{})
	cfg.Snapshots = func() Snapshots { return Snapshots{Interval: 10} }
	if err := Bootstrap(cfg, nil); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, cfg)
	stop := running(t, r)
	untilLeader(t, r)
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprint(i))
		if _, err := r.Propose(within(t, 5*time.Second), []byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	// A second voter that never comes: the group has no quorum from here on.
	if err := r.ChangeMembership(within(t, 5*time.Second), Change{Kind: AddLearner, RaftID: 77}, []byte("learner")); err != nil {
		t.Fatal(err)
	}
	want = append(want, "learner")
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	forced := cfg
	forced.RaftID, forced.History, forced.Machine = NewRaftID(), id.New(), &ledger{}
	if err := ForceNew(cfg, nil); err == nil {
		t.Error("the old raft id and history were taken")
	}
	if err := ForceNew(forced, func(uint64) ([][]byte, error) { return [][]byte{[]byte("forced")}, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, oldName)); err != nil {
		t.Errorf("the old directory is not kept: %v", err)
	}
	want = append(want, "forced")
	m := &ledger{}
	forced.Machine = m
	r = mustOpen(t, forced)
	running(t, r)
	untilLeader(t, r)
	if _, err := r.Propose(within(t, 5*time.Second), []byte("more")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.lines()); got != fmt.Sprint(append(want, "more")) {
		t.Errorf("the machine holds %s, want %v", got, want)
	}
	if st := r.Status(); len(st.Voters) != 1 || len(st.Learners) != 0 || st.Voters[0] != forced.RaftID {
		t.Errorf("members are %v and %v", st.Voters, st.Learners)
	}
	if _, err := Open(cfg); err == nil {
		t.Error("the directory of the new history was opened as the old one")
	}
}
