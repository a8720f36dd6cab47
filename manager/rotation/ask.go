package rotation

import (
	"bytes"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// Deadline is how long a rotation may take if nobody says otherwise.
	Deadline = 24 * time.Hour

	trusts = modelv1.RootPhase_ROOT_PHASE_TRUST
	renews = modelv1.RootPhase_ROOT_PHASE_RENEW
	back   = modelv1.RootPhase_ROOT_PHASE_BACK
)

// From returns the root, with its key, that a root which is asked for is to follow:
// nil if msg only joins the rotation that is under way, and an error if it cannot
// be carried out now.
func From(c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (*modelv1.RootKey, error) {
	r := c.GetRoot().GetRotation()
	switch {
	case len(c.GetRoot().GetCertificates()) == 0:
		return nil, rpc.Errorf(errdefs.ErrUnavailable, "the swarm has no root yet")
	case (r == nil || msg.GetReplace()) && store.ActiveKey(c) <= c.GetDataKey().GetStale():
		// The next root's key must not be in an entry that opens with a data key which
		// somebody has who should not.
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "the data keys are being replaced (%s): the next root waits for that", c.GetDataKey().GetReason()),
			"try again in a moment")
	case r == nil:
		return &modelv1.RootKey{Certificate: c.GetRoot().GetCertificates()[0], Key: c.GetRoot().GetKey(), Via: c.GetRoot().GetVia(), Given: c.GetRoot().GetGiven(), External: c.GetRoot().GetExternal()}, nil
	case msg.GetReplace() && len(c.GetRoot().GetCertificates())+1 > ca.MaxRoots:
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the rotation was replaced %d times and no more roots can be trusted at once", len(r.GetDropped())),
			"let it end, or abort it: ctl swarm ca --abort")
	case msg.GetReplace():
		return r.GetFrom(), nil
	case r.GetPhase() == back:
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "a rotation of the root is being aborted"),
			"wait for its end (ctl swarm ca shows it), or begin another in its place: ctl swarm ca --rotate --replace")
	case len(msg.GetCertificate()) > 0 && !bytes.Equal(msg.GetCertificate(), r.GetTo().GetCertificate()):
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "a rotation to another root is under way"),
			"wait for its end, or have this root follow instead: ctl swarm ca --rotate --replace --ca-cert FILE, with what came with it")
	}
	return nil, nil
}

// Next is a root that was made or given, and what leads to it.
type Next struct {
	From, To *modelv1.RootKey
	Cross    []byte
}

// Begin writes a rotation to next into c, the caller's own copy, in place of one
// that is under way; without a root to follow, it gives that one the deadline and
// the policy of msg. at is Unix nanoseconds of log time.
func Begin(c *modelv1.Cluster, msg *controlv1.RotateRootRequest, next Next, by string, at int64) error {
	from, err := From(c, msg)
	if err != nil {
		return err
	}
	if !proto.Equal(from, next.From) {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrAborted, "the root or the rotation became another meanwhile"), "look at ctl swarm ca, and ask again")
	}
	if msg.GetCertExpiry() != 0 {
		c.Spec.CertExpiry = msg.GetCertExpiry()
	}
	root := c.GetRoot()
	if from == nil {
		amend(root.GetRotation(), msg.GetDeadline(), msg.GetOnStraggler(), at)
		return nil
	}
	r := &modelv1.RootRotation{
		Id: msg.GetRequestId(), Phase: trusts, From: from, To: next.To, Cross: next.Cross,
		StartedAt: at, PhaseAt: at, Deadline: at + int64(Deadline), OnStraggler: modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT, By: by,
	}
	if old := root.GetRotation(); old != nil {
		r.Dropped, r.StartedAt = old.GetDropped(), old.GetStartedAt()
		if old.GetPhase() != trusts { // it has signed
			r.Dropped = append(r.Dropped, old.GetTo().GetCertificate())
		}
	}
	amend(r, msg.GetDeadline(), msg.GetOnStraggler(), at)
	root.Rotation = r
	trust(root, root.GetCertificates()[0])
	return nil
}

// amend gives a rotation another deadline and policy, where they are given.
func amend(r *modelv1.RootRotation, deadline int64, policy modelv1.StragglerPolicy, at int64) {
	if deadline != 0 {
		r.Deadline = at + deadline
	}
	if policy != modelv1.StragglerPolicy_STRAGGLER_POLICY_UNSPECIFIED {
		r.OnStraggler = policy
	}
}

// trust makes first the root that signs, and all others of the rotation trusted
// besides.
func trust(root *modelv1.RootCA, first []byte) {
	r := root.GetRotation()
	all := [][]byte{first}
	for _, der := range append([][]byte{r.GetFrom().GetCertificate(), r.GetTo().GetCertificate()}, r.GetDropped()...) {
		if len(der) > 0 && !slices.ContainsFunc(all, func(have []byte) bool { return bytes.Equal(have, der) }) {
			all = append(all, der)
		}
	}
	root.Certificates = all
	root.Trust++
}

// sign makes a root the one that signs.
func sign(root *modelv1.RootCA, k *modelv1.RootKey) {
	root.Key, root.Via, root.Given, root.External = k.GetKey(), k.GetVia(), k.GetGiven(), k.GetExternal()
	trust(root, k.GetCertificate())
}

// Abort has the rotation that is under way go back. What was not begun to be signed
// is forgotten at once.
func Abort(c *modelv1.Cluster, msg *controlv1.AbortRootRotationRequest, at int64) error {
	root := c.GetRoot()
	r := root.GetRotation()
	if r == nil {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "no rotation of the root is under way"), "ctl swarm ca shows the root and how the last rotation ended")
	}
	if r.GetPhase() != back {
		r.Deadline = at + max(r.GetDeadline()-r.GetStartedAt(), int64(time.Minute))
		r.Phase, r.PhaseAt = back, at
		// The key of what signs no more is of no use to anybody.
		r.To.Key, r.To.External = nil, nil
		sign(root, r.GetFrom())
	}
	amend(r, msg.GetDeadline(), msg.GetOnStraggler(), at)
	return nil
}

// Move has the root that signs be asked for at other addresses from now on; its key
// is at external CAs already.
func Move(c *modelv1.Cluster, external []*modelv1.ExternalCA) error {
	root := c.GetRoot()
	if len(root.GetExternal()) == 0 {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the swarm signs with a root of its own, and no external CA has its key"),
			"have an external CA's root follow: ctl swarm ca --rotate --ca-cert FILE --external-ca protocol=cfssl,url=URL")
	}
	root.External = external
	for _, k := range []*modelv1.RootKey{root.GetRotation().GetFrom(), root.GetRotation().GetTo()} {
		if len(k.GetExternal()) > 0 && bytes.Equal(k.GetCertificate(), root.GetCertificates()[0]) {
			k.External = external
		}
	}
	return nil
}
