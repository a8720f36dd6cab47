package reconcile

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// BenchmarkRound plans 10,000 replicas on 100 nodes: all to be made and placed, and
// all as they should be. The commit is not part of it.
func BenchmarkRound(b *testing.B) {
	const replicas, nodes = 10_000, 100
	s := store.New()
	svc := &modelv1.Service{Id: serviceID(1).Bytes(), Current: 1, Target: 1, Spec: &modelv1.ServiceSpec{Name: "svc",
		Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: replicas}}}}
	unit := &logv1.Unit{Operations: []*logv1.Operation{
		{Op: &logv1.Operation_PutService{PutService: svc}},
		{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: svc.GetId(), Number: 1, Template: &modelv1.TaskTemplate{
			Placement: &modelv1.Placement{Constraints: []string{"node.labels.zone!=x"}}}}}}}}
	for n := range nodes {
		unit.Operations = append(unit.Operations, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
			Id: nodeID(n).Bytes(), Spec: &modelv1.NodeSpec{Name: fmt.Sprint("dev", n)},
			Status: &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY}}}})
	}
	apply := func(index uint64, parcels ...store.Parcel) {
		tx := &logv1.Transaction{}
		for _, p := range parcels {
			if p.Moves != nil {
				tx.Moves = append(tx.Moves, p.Moves)
			} else {
				tx.Units = append(tx.Units, p.Unit)
			}
		}
		if err := s.ApplyProto(index, time.Now().UnixNano(), []*logv1.Transaction{tx})[0]; err != nil {
			b.Fatal(err)
		}
	}
	apply(1, store.Parcel{Unit: unit})
	cfg := Config{Store: s, DB: store.NewDB(s, nil), Log: slog.New(slog.DiscardHandler)}
	plan := func() *round {
		w := newWatcher(s)
		defer w.close()
		r := newRound(cfg, w.look(), w)
		r.service(serviceID(1))
		return r
	}
	run := func(name string, want int) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := plan(); r.plans.units != want {
					b.Fatalf("%d units, want %d", r.plans.units, want)
				}
			}
		})
	}
	run("empty", replicas)
	apply(2, plan().plans.parcels...)
	run("satisfied", 0)
}
