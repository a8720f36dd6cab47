package rotation

import (
	"bytes"
	"slices"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// patience is how long nodes that are connected and have not said that they trust
	// the next root hold it up: what it signs leads to the former one anyway.
	patience = time.Minute
	// perNode is the time over which renewals are spread, for each node.
	perNode = 5 * time.Millisecond
	// overlap is how long standing tokens from before a rotation count after it.
	overlap = time.Hour
)

// A step is the next change of the cluster's record. Its zero value is none.
type step struct {
	// change edits a copy of the record; nil: nothing is to be done.
	change func(*modelv1.Cluster)
	// says what it is, for the log and the event.
	says string
}

// plan says which step is next. Equal snapshots and times give equal plans.
func plan(snap *store.Snapshot, now time.Time) step {
	root := snap.Cluster().GetRoot()
	r := root.GetRotation()
	if r == nil {
		return forget(root, now)
	}
	c := tally(snap, now)
	nanos := now.UnixNano()
	switch {
	case r.GetPhase() == trusts && (c.untold == 0 || nanos >= r.GetPhaseAt()+int64(patience)):
		return step{says: "the next root signs", change: func(cl *modelv1.Cluster) {
			r := cl.GetRoot().GetRotation()
			r.Phase, r.PhaseAt, r.Spread = renews, nanos, int64(perNode)*int64(c.nodes)
			sign(cl.GetRoot(), r.GetTo())
		}}
	case r.GetPhase() == trusts:
		return step{}
	case c.behind == 0:
		return over(snap, r, c, now, modelv1.RootOutcome_ROOT_OUTCOME_DONE)
	case nanos >= r.GetDeadline() && r.GetOnStraggler() == modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE && c.quorum:
		return over(snap, r, c, now, modelv1.RootOutcome_ROOT_OUTCOME_QUARANTINED)
	}
	return step{}
}

// over ends a rotation: only the root that signs is trusted from now on.
func over(snap *store.Snapshot, r *modelv1.RootRotation, c count, now time.Time, outcome modelv1.RootOutcome) step {
	says := "the former root is trusted no more"
	until := lastPin(snap, r, now)
	if r.GetPhase() == back {
		says = "the rotation was aborted and the root is the former one"
		outcome = modelv1.RootOutcome_ROOT_OUTCOME_ABORTED
	}
	return step{says: says, change: func(cl *modelv1.Cluster) {
		root := cl.GetRoot()
		r := root.GetRotation()
		if r.GetPhase() != back {
			// As many as what leads here leads from.
			former := append([]*modelv1.FormerRoot{{Certificate: r.GetFrom().GetCertificate(), Cross: r.GetCross(), Until: until}}, root.GetFormer()...)
			root.Former = former[:min(len(former), len(root.GetVia())/2)]
		}
		root.Certificates = root.GetCertificates()[:1]
		root.Trust++
		root.Last = &modelv1.RootRotationEnd{Id: r.GetId(), Outcome: outcome, StartedAt: r.GetStartedAt(), EndedAt: now.UnixNano(),
			Stragglers: c.stragglers, LeftBehind: c.behind}
		root.Rotation = nil
	}}
}

// lastPin is when the last join token that pins the root of before the rotation is
// over.
func lastPin(snap *store.Snapshot, r *modelv1.RootRotation, now time.Time) int64 {
	pin := ca.RootDigest(r.GetFrom().GetCertificate())
	until := int64(0)
	if !snap.Cluster().GetSpec().GetNoStandingTokens() {
		until = now.Add(overlap).UnixNano()
	}
	for t := range snap.Tokens() {
		if t.GetEnd() == 0 && bytes.Equal(t.GetRoot(), pin[:]) {
			until = max(until, t.GetExpiresAt())
		}
	}
	return until
}

// forget lets go of former roots that no token names any more. One in the middle of
// the way to an older one stays.
func forget(root *modelv1.RootCA, now time.Time) step {
	keep := len(root.GetFormer())
	for keep > 0 && root.GetFormer()[keep-1].GetUntil() <= now.UnixNano() {
		keep--
	}
	if keep == len(root.GetFormer()) {
		return step{}
	}
	return step{says: "no join token names a former root any more", change: func(c *modelv1.Cluster) {
		root := c.GetRoot()
		root.Former = slices.Clip(root.GetFormer()[:keep])
		formers := ca.Formers(root.GetVia())
		root.Via = ca.Via(formers[:min(keep, len(formers))])
	}}
}
