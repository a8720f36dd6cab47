package store

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// crowd says how much a store holds while one operation is measured.
type crowd struct{ tasks, nodes, services, watchers uint64 }

// raise returns a store with the crowd in it: tasks spread over the services and
// the nodes, and each watcher at a node of its own.
func (c crowd) raise(b *testing.B) *Store {
	s := New()
	var units []*logv1.Unit
	for i := range c.nodes {
		units = append(units, unit(opNode(num(i+1))))
	}
	for i := range c.services {
		units = append(units, unit(opService(num(i+1), fmt.Sprint("s", i)), opRevision(num(i+1), 1)))
	}
	for i := range c.tasks {
		units = append(units, unit(opTask(num(1<<30+i), num(i%c.services+1), num(i%c.nodes+1), i/c.services+1)))
	}
	for _, err := range s.ApplyProto(1, 1, []*logv1.Transaction{transaction(units...)}) {
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range c.watchers {
		w := s.Watch(KeyWorkOfNode(num(1<<40 + i)))
		b.Cleanup(w.Close)
	}
	return s
}

// BenchmarkScale shows what one operation costs while there is more and more of
// one thing, and of the others as much as in the middle: docs/scaling.md draws
// its lines through these points.
func BenchmarkScale(b *testing.B) {
	middle := crowd{tasks: 10_000, nodes: 100, services: 10, watchers: 100}
	for _, size := range []struct {
		of    string
		sizes []uint64
		set   func(*crowd, uint64)
	}{
		{"tasks", []uint64{1000, 10_000, 100_000}, func(c *crowd, n uint64) { c.tasks = n }},
		{"nodes", []uint64{100, 1000, 10_000}, func(c *crowd, n uint64) { c.nodes = n }},
		{"services", []uint64{10, 100, 1000}, func(c *crowd, n uint64) { c.services = n }},
		{"watchers", []uint64{100, 1000, 10_000}, func(c *crowd, n uint64) { c.watchers = n }},
	} {
		for _, n := range size.sizes {
			c := middle
			size.set(&c, n)
			for what, op := range scaled {
				b.Run(fmt.Sprintf("%s/%s=%d", what, size.of, n), func(b *testing.B) {
					s := c.raise(b)
					index := uint64(1)
					runtime.GC()
					b.ReportAllocs()
					before := processorTime(b)
					for i := uint64(0); b.Loop(); i++ {
						index++
						op(b, s, c, index, i)
					}
					b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}

// processorTime is what this process has used of the processors so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scaled are the operations: i differs from one to the next.
var scaled = map[string]func(b *testing.B, s *Store, c crowd, index, i uint64){
	"report": func(b *testing.B, s *Store, c crowd, index, i uint64) {
		n := i % c.tasks
		state := taskstate.Accepted + modelv1.TaskState(i/c.tasks%3)                                                        //nolint:gosec // below 3
		do(b, s, index, opReport(num(1<<30+n), num(n%c.nodes+1), &modelv1.TaskStatus{State: state, AgentAt: int64(index)})) //nolint:gosec // small
	},
	"create-task": func(b *testing.B, s *Store, c crowd, index, i uint64) {
		do(b, s, index, opTask(num(1<<35+i), num(1), num(i%c.nodes+1), 1<<20+i))
	},
	"create-service": func(b *testing.B, s *Store, _ crowd, index, i uint64) {
		do(b, s, index, opService(num(1<<35+i), fmt.Sprint("x", i)), opRevision(num(1<<35+i), 1))
	},
	"tasks-of-node": func(b *testing.B, s *Store, c crowd, _, i uint64) {
		for range s.Snapshot().TasksByNode(num(i%c.nodes + 1)) {
		}
	},
}

func do(b *testing.B, s *Store, index uint64, ops ...*logv1.Operation) {
	if err := s.ApplyProto(index, 1, []*logv1.Transaction{transaction(unit(ops...))})[0]; err != nil {
		b.Fatal(err)
	}
}
