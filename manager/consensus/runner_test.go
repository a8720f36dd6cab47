package consensus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

// ledger is a machine: the list of transactions it was given. One that begins
// with "no" conflicts.
type ledger struct {
	mu    sync.Mutex
	Index uint64
	Clock int64
	Lines []string
}

var errNo = errors.New("conflict")

func (l *ledger) Apply(index uint64, clock int64, txs [][]byte) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Index, l.Clock = index, max(l.Clock, clock)
	errs := make([]error, len(txs))
	for i, tx := range txs {
		if strings.HasPrefix(string(tx), "no") {
			errs[i] = errNo
			continue
		}
		l.Lines = append(l.Lines, string(tx))
	}
	return errs
}

func (l *ledger) Encode() func(io.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(l)
	return func(w io.Writer) error {
		if err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
}

func (l *ledger) Restore(r io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Lines = nil
	return json.NewDecoder(r).Decode(l)
}

func (l *ledger) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.Lines...)
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.Lines)
}

// counting is a machine that keeps nothing, for benchmarks.
type counting struct{ index uint64 }

func (c *counting) Apply(index uint64, _ int64, _ [][]byte) []error { c.index = index; return nil }
func (c *counting) Encode() func(io.Writer) error {
	b := binary.BigEndian.AppendUint64(nil, c.index)
	return func(w io.Writer) error { _, err := w.Write(b); return err }
}
func (c *counting) Restore(io.Reader) error { return nil }

func testConfig(t testing.TB, m Machine) Config {
	t.Helper()
	return Config{
		Dir: t.TempDir(), RaftID: NewRaftID(), Cluster: id.New(), History: id.New(), Node: id.New(),
		Ring: sealed.NewRing(), Machine: m, Log: slog.New(slog.DiscardHandler),
	}
}

// running runs r until the test ends or the returned function is called.
func running(t testing.TB, r *Runner) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	once := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = once() })
	return once
}

func mustOpen(t testing.TB, cfg Config) *Runner {
	t.Helper()
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func untilLeader(t testing.TB, r *Runner) {
	t.Helper()
	for deadline := time.After(10 * time.Second); ; {
		changed := r.Changed()
		if r.Status().Tenured {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no leader in 10 s: %+v", r.Status())
		}
	}
}

func TestOneVoterAppliesAndRemembers(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, &ledger{})
	cfg.Snapshots = func() Snapshots { return Snapshots{Interval: 10} }
	if err := Bootstrap(cfg, nil); err != nil {
		t.Fatal(err)
	}
	var want []string
	for life := range 3 {
		m := &ledger{}
		cfg.Machine = m
		r := mustOpen(t, cfg)
		stop := running(t, r)
		untilLeader(t, r)
		for i := range 25 {
			line := fmt.Sprintf("life %d line %d", life, i)
			index, err := r.Propose(within(t, 5*time.Second), []byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if r.Status().Applied < index && r.WaitApplied(within(t, time.Second), index) != nil {
				t.Errorf("entry %d is not applied", index)
			}
			want = append(want, line)
		}
		if _, err := r.Propose(within(t, 5*time.Second), []byte("no")); !errors.Is(err, errNo) {
			t.Errorf("conflict came back as %v", err)
		}
		if _, err := r.ReadIndex(within(t, 5*time.Second)); err != nil {
			t.Error(err)
		}
		if got := m.lines(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("life %d: machine holds %q, want %q", life, got, want)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestASolitaryLeaderIsWokenLess: it lives as many ticks, some at a time, and one at a
// time again as soon as there is somebody to tell.
func TestASolitaryLeaderIsWokenLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, &ledger{})
		if err := Bootstrap(cfg, nil); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, cfg)
		running(t, r)
		untilLeader(t, r)
		lived := func() (wakes int, ticks uint64) {
			now := func() (at uint64) {
				said := make(chan uint64)
				r.inbox.put(func(w *work) { w.calls = append(w.calls, func(c *Core) { said <- c.now }) })
				return <-said
			}
			before, last := now(), time.Time{}
			for range 300 {
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				if at := r.Meters().Ticked; at != last {
					wakes, last = wakes+1, at
				}
			}
			return wakes, now() - before
		}
		if wakes, ticks := lived(); wakes > 22 || ticks < 57 || ticks > 63 {
			t.Errorf("in 3 s it was woken %d times for %d ticks, want 20 times for 60", wakes, ticks)
		}
		if err := r.ChangeMembership(t.Context(), Change{Kind: AddLearner, RaftID: 77}, []byte("learner")); err != nil {
			t.Fatal(err)
		}
		if wakes, ticks := lived(); wakes < 58 || ticks < 57 || ticks > 63 {
			t.Errorf("with a learner it was woken %d times in 3 s for %d ticks, want 60 and 60", wakes, ticks)
		}
	})
}
