package condemn

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Deadline is how long the rotation of the root may take if nobody says otherwise:
// until it is over, who has the former root's key can pass as a manager.
const Deadline = 10 * time.Minute

const (
	out        = modelv1.CondemnationStep_CONDEMNATION_STEP_OUT
	dataKey    = modelv1.CondemnationStep_CONDEMNATION_STEP_DATA_KEY
	root       = modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT
	quarantine = modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE
)

// Begin writes into c, the caller's own copy, that a node is condemned, and reports
// whether it was already. at is Unix nanoseconds of log time. A node more begins
// anew what is under way: it has seen how far that was.
func Begin(c *modelv1.Cluster, node *modelv1.Condemned, msg *controlv1.CondemnNodeRequest, by string, at int64) (joined bool) {
	x := c.GetCondemnation()
	if x == nil {
		x = &modelv1.Condemnation{Id: msg.GetRequestId(), StartedAt: at, By: by, Deadline: int64(Deadline), OnStraggler: quarantine}
		c.Condemnation = x
	}
	if msg.GetDeadline() != 0 {
		x.Deadline = msg.GetDeadline()
	}
	if msg.GetOnStraggler() != 0 {
		x.OnStraggler = msg.GetOnStraggler()
	}
	if known := Find(x, node.GetNode()); known != nil {
		known.Remove = known.GetRemove() || node.GetRemove()
		return true
	}
	x.Nodes = append(x.GetNodes(), node)
	x.Step, x.StepAt, x.Roots = out, at, nil
	x.DataKey = max(store.ActiveKey(c), c.GetDataKey().GetOffered())
	c.WorkerToken, c.ManagerToken, c.PreviousWorkerToken, c.PreviousManagerToken, c.PreviousUntil = nil, nil, nil, nil, 0
	return false
}

// Find returns the entry of a node, nil if it is not condemned.
func Find(x *modelv1.Condemnation, node []byte) *modelv1.Condemned {
	for _, n := range x.GetNodes() {
		if bytes.Equal(n.GetNode(), node) {
			return n
		}
	}
	return nil
}

// Names are the condemned, for a sentence.
func Names(nodes []*modelv1.Condemned) string {
	var names []string
	for _, n := range nodes {
		names = append(names, cmp.Or(n.GetName(), "a node without a name"))
	}
	return strings.Join(names, ", ")
}

// View adds to what is shown of the root how far a condemnation is.
func View(c *modelv1.Cluster, v *controlv1.RootView) *controlv1.RootView {
	v.Condemnation, v.Condemned = proto.CloneOf(c.GetCondemnation()), proto.CloneOf(c.GetCondemned())
	return v
}

// owns reports whether a root with this certificate is known to the condemned.
func owns(x *modelv1.Condemnation, digest []byte) bool {
	return slices.ContainsFunc(x.GetRoots(), func(d []byte) bool { return bytes.Equal(d, digest) })
}
