package dispatch

import (
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// placed is a store with so many tasks of one service, spread over so many nodes.
func placed(b *testing.B, tasks, nodes int) *store.Store {
	s := store.New()
	ops := []*logv1.Operation{
		{Op: &logv1.Operation_PutService{PutService: &modelv1.Service{Id: numbered(1).Bytes(), Spec: &modelv1.ServiceSpec{Name: "ping"}, Current: 1, Target: 1, LastRevision: 1}}},
		{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: numbered(1).Bytes(), Number: 1,
			Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}}}}},
	}
	for n := range nodes {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: numbered(1000 + n).Bytes(), Spec: &modelv1.NodeSpec{}}}})
	}
	for i := range tasks {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
			Id: numbered(1_000_000 + i).Bytes(), Service: numbered(1).Bytes(), Node: numbered(1000 + i%nodes).Bytes(), Slot: uint64(i + 1), Revision: 1, //nolint:gosec // not negative
			Desired: modelv1.TaskState_TASK_STATE_RUNNING,
		}}})
	}
	if err := s.ApplyProto(1, 1, []*logv1.Transaction{{Units: []*logv1.Unit{{Operations: ops}}}})[0]; err != nil {
		b.Fatal(err)
	}
	return s
}

func numbered(n int) (x id.ID) {
	binary.BigEndian.PutUint64(x[8:], uint64(n)) //nolint:gosec // not negative
	return x
}

// BenchmarkDiff is what one node is told of a hundred new tasks, out of 10,000 and
// out of 100,000: found by the changes, and encoded. What others run costs it
// nothing.
func BenchmarkDiff(b *testing.B) {
	for name, tasks := range map[string]int{"of10k": 10_000, "of100k": 100_000} {
		b.Run(name, func(b *testing.B) {
			const told = 100
			nodes := tasks / told
			s := placed(b, tasks, nodes)
			snap, node := s.Snapshot(), numbered(1000)
			var changes []store.Change
			for t := range snap.TasksByNode(node) {
				changes = append(changes, store.Change{Kind: logv1.Kind_KIND_TASK, Key: t.ID.Bytes(), Node: node})
			}
			b.ReportAllocs()
			for b.Loop() {
				a := newWork(node).diff(snap, changes)
				if len(a.GetPut()) != told {
					b.Fatalf("%d tasks are told, want %d", len(a.GetPut()), told)
				}
				if _, err := proto.Marshal(a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
