package manager

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// BenchmarkWrites measures what one manager writes: transactions on a real
// store, sealed, in a log on a real disk with its fsyncs, by one writer and by
// 64, each of a node's labels. consensus.BenchmarkPropose counts the fsyncs.
func BenchmarkWrites(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db, entries := lone(b)
			nodes := make([]id.ID, writers)
			for w := range nodes {
				nodes[w] = id.New()
				_, err := db.Update(b.Context(), nil, func(tx *store.Tx) error {
					return tx.PutNode(&modelv1.Node{Id: nodes[w].Bytes(), Spec: &modelv1.NodeSpec{}})
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			took := make([][]time.Duration, writers)
			before := entries.Load()
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; i < b.N; i += writers {
						at := time.Now()
						if _, err := db.Update(b.Context(), nil, label(nodes[w], i)); err != nil {
							b.Error(err)
							return
						}
						took[w] = append(took[w], time.Since(at))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(b.N)/float64(entries.Load()-before), "tx/entry")
		})
	}
}

// BenchmarkWritesBesideACrowd measures one writer of one object on a real disk
// while 64 others write another, one and the same.
func BenchmarkWritesBesideACrowd(b *testing.B) {
	db, _ := lone(b)
	hot, quiet := id.New(), id.New()
	for _, x := range []id.ID{hot, quiet} {
		if _, err := db.Update(b.Context(), nil, func(tx *store.Tx) error {
			return tx.PutNode(&modelv1.Node{Id: x.Bytes(), Spec: &modelv1.NodeSpec{}})
		}); err != nil {
			b.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	var crowd atomic.Int64
	for w := range 64 {
		wg.Go(func() {
			for i := w; ctx.Err() == nil; i += 64 {
				if _, err := db.Update(ctx, nil, label(hot, i)); err == nil {
					crowd.Add(1)
				}
			}
		})
	}
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		at := time.Now()
		if _, err := db.Update(b.Context(), nil, label(quiet, i)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(at))
	}
	b.ReportMetric(float64(crowd.Load())/b.Elapsed().Seconds(), "crowd-tx/s")
	stop()
	wg.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// label sets one of 64 labels of a node.
func label(node id.ID, i int) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		n := proto.CloneOf(tx.Node(node))
		if n.Spec.Labels == nil {
			n.Spec.Labels = map[string]string{}
		}
		n.Spec.Labels[fmt.Sprint(i%64)] = fmt.Sprint(i)
		return tx.PutNode(n)
	}
}

// metered is a machine that counts the entries it is given.
type metered struct {
	machine
	entries *atomic.Int64
}

func (c metered) Apply(index uint64, clock int64, txs [][]byte) []error {
	c.entries.Add(1)
	return c.machine.Apply(index, clock, txs)
}

// lone runs a member that is its whole group until the benchmark ends.
func lone(b *testing.B) (*store.DB, *atomic.Int64) {
	b.Helper()
	s, entries := store.New(), &atomic.Int64{}
	cfg := consensus.Config{
		Dir: b.TempDir(), RaftID: consensus.NewRaftID(), Cluster: id.New(), History: id.New(), Node: id.New(),
		Ring: sealed.NewRing(), Machine: metered{machine{s}, entries}, Log: slog.New(slog.DiscardHandler),
	}
	if err := consensus.Bootstrap(cfg, nil); err != nil {
		b.Fatal(err)
	}
	r, err := consensus.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	for changed := r.Changed(); !r.Status().Tenured; changed = r.Changed() {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			b.Fatal("no leader within ten seconds")
		}
	}
	return store.NewDB(s, r), entries
}
