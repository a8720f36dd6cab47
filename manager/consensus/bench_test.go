package consensus

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkPropose measures one member on a real disk: proposals of 1 KiB from
// 1 and from 64 writers.
func BenchmarkPropose(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			cfg := testConfig(b, &counting{})
			if err := Bootstrap(cfg, nil); err != nil {
				b.Fatal(err)
			}
			r := mustOpen(b, cfg)
			running(b, r)
			untilLeader(b, r)
			f0, e0 := r.durable.fsyncs.Load(), r.durable.entries.Load()
			took := make([][]time.Duration, writers)
			tx := make([]byte, 1024)
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; i < b.N; i += writers {
						at := time.Now()
						if _, err := r.Propose(b.Context(), tx); err != nil {
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
			fsyncs := float64(r.durable.fsyncs.Load() - f0)
			b.ReportMetric(float64(r.durable.entries.Load()-e0)/fsyncs, "entries/fsync")
			b.ReportMetric(float64(b.N)/fsyncs, "tx/fsync")
		})
	}
}
