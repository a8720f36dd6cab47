package store

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestATaskSurvivesItsMessage(t *testing.T) {
	t.Parallel()
	code := int32(0)
	for _, st := range []*modelv1.TaskStatus{
		{State: taskstate.Running, At: 1, AgentAt: 2},
		{State: taskstate.Complete, At: 1, AgentAt: 2, ExitCode: &code},
		{State: taskstate.Failed, At: 1, Error: "e"},
	} {
		want := &modelv1.Task{
			Id: num(1).Bytes(), Service: num(2).Bytes(), Node: num(3).Bytes(), Revision: 4, Slot: 5,
			Desired: taskstate.Running, Status: st, CreatedIndex: 6, DecidedIndex: 7, CreatedAt: 8, DesiredAt: 9, Reason: "r",
		}
		if diff := cmp.Diff(want, TaskFromProto(want).Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("round trip (-want +got):\n%s", diff)
		}
	}
}

// running is a placed task of the greatest usual size.
func running(n uint64) *modelv1.Task {
	return &modelv1.Task{
		Id: id.New().Bytes(), Service: num(n / 100).Bytes(), Node: num(n % 1000).Bytes(), Revision: 3, Slot: n%100 + 1,
		Desired: taskstate.Running, CreatedIndex: 1 << 30, DecidedIndex: 1 << 30, CreatedAt: 1 << 60, DesiredAt: 1 << 60,
		Status: &modelv1.TaskStatus{State: taskstate.Running, At: 1 << 60, AgentAt: 1 << 60},
	}
}

func TestATaskIsSmallOnTheWire(t *testing.T) {
	t.Parallel()
	if got := proto.Size(running(1)); got > 200 {
		t.Errorf("a running task takes %d bytes, want at most 200", got)
	}
}

func TestATaskIsSmallInMemory(t *testing.T) { // not parallel: it measures the heap
	if checked {
		t.Skip("this build keeps a hash of every object beside it")
	}
	const n = 100_000
	s := New()
	st := s.Snapshot().fork()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range uint64(n) {
		data, err := proto.Marshal(running(i))
		if err != nil {
			t.Fatal(err)
		}
		p := &modelv1.Task{}
		if err := proto.Unmarshal(data, p); err != nil {
			t.Fatal(err)
		}
		st.tasks.set(TaskFromProto(p))
	}
	each := (heap() - before) / n
	runtime.KeepAlive(st)
	t.Logf("%d bytes a task with its indexes", each)
	if each > 450 {
		t.Errorf("a running task takes %d bytes with its indexes, want at most 450", each)
	}
}

// fleet is a store with n placed tasks on 1,000 nodes.
func fleet(b *testing.B, n uint64) *Store {
	s := New()
	var units []*logv1.Unit
	for i := range uint64(1000) {
		units = append(units, unit(opNode(num(i+1))))
	}
	for i := range n / 100 {
		units = append(units, unit(opService(num(i+1), "s"+num(i).Short())))
	}
	s.ApplyProto(1, 1, []*logv1.Transaction{transaction(units...)})
	units = nil
	for i := range n {
		units = append(units, unit(opTask(num(1<<20+i), num(i/100+1), num(i%1000+1), i%100+1)))
	}
	if err := s.ApplyProto(2, 1, []*logv1.Transaction{transaction(units...)})[0]; err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkApplyReports(b *testing.B) {
	const tasks = 100_000
	for _, batch := range []int{1, 200} {
		b.Run(map[int]string{1: "one", 200: "of200"}[batch], func(b *testing.B) {
			s := fleet(b, tasks)
			index, state := uint64(2), taskstate.Accepted
			n := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				u := unit()
				for range batch {
					if n++; n == tasks {
						n, state = 0, state+1
					}
					u.Operations = append(u.Operations, opReport(num(1<<20+n), num(n%1000+1), &modelv1.TaskStatus{State: state}))
				}
				data, err := proto.Marshal(transaction(u))
				if err != nil {
					b.Fatal(err)
				}
				index++
				b.StartTimer()
				if err := s.Apply(index, 1, [][]byte{data})[0]; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "reports/s")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	s := fleet(b, 100_000)
	for b.Loop() {
		if err := s.Snapshot().Encode(discard{}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
