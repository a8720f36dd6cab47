package dispatch

import (
	"testing"
	"time"

	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestTheDeskFollowsTheClustersSettings(t *testing.T) {
	r := newReplica(t)
	d := newDesk(Config{Store: r.Store})
	if d.leases.full != ticks(defaultLease) || !d.leases.guard {
		t.Fatalf("a lease of %d ticks, guard %v; want the defaults", d.leases.full, d.leases.guard)
	}
	cluster := r.Snapshot().Cluster()
	r.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
		Id: cluster.GetId(), History: cluster.GetHistory(),
		Spec: &modelv1.ClusterSpec{Lease: int64(time.Minute), MassExpiryGuardOff: true},
	}}})
	d.changed(r.Snapshot(), store.Change{Kind: logv1.Kind_KIND_CLUSTER})
	if d.leases.full != ticks(time.Minute) || d.leases.guard {
		t.Errorf("a lease of %d ticks, guard %v; want those that were set", d.leases.full, d.leases.guard)
	}
}

// TestADeskThatMissedChangesForgetsWhoIsGone: such nodes would weigh in the
// count of R3's guard.
func TestADeskThatMissedChangesForgetsWhoIsGone(t *testing.T) {
	r := newReplica(t)
	d := newDesk(Config{Store: r.Store})
	r.do(&logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: logv1.Kind_KIND_NODE, Key: nodeN(2).Bytes()}}})
	d.adopt(r.Snapshot())
	if d.leases.nodes[nodeN(2)] != nil || len(d.leases.nodes) != 2 {
		t.Errorf("%d nodes have leases, want the 2 that are left", len(d.leases.nodes))
	}
}
