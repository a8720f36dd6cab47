package store

import (
	"google.golang.org/protobuf/proto"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ActiveKey is the number of the data key that entries are sealed under (R20).
func ActiveKey(c *modelv1.Cluster) uint32 { return max(1, c.GetDataKey().GetActive()) }

// StaleKeys has every data key there is replaced, because of reason. It changes
// the caller's own copy of the cluster.
func StaleKeys(c *modelv1.Cluster, reason string) {
	d := proto.CloneOf(c.GetDataKey())
	if d == nil {
		d = &modelv1.DataKey{}
	}
	d.Active = ActiveKey(c)
	d.Stale, d.Reason = max(d.Active, d.Offered), reason
	c.DataKey = d
}
