package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// CondemnOffice says what follows when a manager may be compromised.
type CondemnOffice interface {
	// Begin writes into c, the caller's own copy, that a node is condemned, and
	// reports whether it was; at is log time.
	Begin(c *modelv1.Cluster, node *modelv1.Condemned, msg *controlv1.CondemnNodeRequest, by string, at int64) (joined bool)
	// Names are condemned nodes, for a sentence.
	Names(nodes []*modelv1.Condemned) string
}

// CondemnNode wishes that a node be no manager, and that nothing it knew as one be
// worth anything. The wish is one entry; whoever leads carries it out.
func (s *Server) CondemnNode(ctx context.Context, msg *controlv1.CondemnNodeRequest) (*controlv1.CondemnNodeResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if _, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.CondemnNodeResponse{Root: s.cfg.Roots.View(s.snapshot())}, err
	}
	var f faults
	f.rotationEnd(msg.GetDeadline(), msg.GetOnStraggler())
	if err := f.refusal("node " + msg.GetRef()); err != nil {
		return nil, err
	}
	x, err := s.condemned(msg.GetRef())
	if err != nil {
		return nil, err
	}
	var joined bool
	var warnings []string
	_, err = s.change(ctx, req, func(tx *store.Tx) (err error) {
		joined, warnings, err = s.condemn(tx, x, msg, req.GetCaller())
		return err
	}, x)
	if err != nil {
		return nil, err
	}
	return &controlv1.CondemnNodeResponse{Root: s.cfg.Roots.View(s.snapshot()), Joined: joined, Warnings: warnings}, nil
}

// condemned returns the node that ref names. One that was removed because it is
// condemned is found by what it was called.
func (s *Server) condemned(ref string) (id.ID, error) {
	snap := s.snapshot()
	n, err := s.node(snap, ref)
	if err == nil {
		return idOf(n.GetId()), nil
	}
	if !errdefs.IsNotFound(err) {
		return id.ID{}, err
	}
	for _, c := range snap.Cluster().GetCondemnation().GetNodes() {
		if x := idOf(c.GetNode()); ref == c.GetName() || ref == x.String() || ref == x.Short() {
			return x, nil
		}
	}
	return id.ID{}, err
}

func (s *Server) condemn(tx *store.Tx, x id.ID, msg *controlv1.CondemnNodeRequest, by string) (joined bool, warnings []string, err error) {
	c, err := cluster(tx.Snapshot)
	if err != nil {
		return false, nil, err
	}
	n := tx.Node(x)
	entry := &modelv1.Condemned{Node: x.Bytes(), Name: nameOf(n, x), Remove: msg.GetRemove()}
	c = proto.CloneOf(c)
	joined = s.cfg.Condemn.Begin(c, entry, msg, by, now(tx.Base()))
	out := c.GetCondemnation().GetStep() > modelv1.CondemnationStep_CONDEMNATION_STEP_OUT
	switch {
	case n == nil && !joined:
		return false, nil, rpc.Errorf(errdefs.ErrNotFound, "node %s not found", msg.GetRef())
	case n == nil:
	case out && msg.GetRemove():
		err = tx.Delete(store.KindNode, x.Bytes())
	case !joined:
		warnings, err = s.putDown(tx, n, msg.GetRef())
	}
	if err != nil {
		return false, nil, err
	}
	if len(c.GetRoot().GetKey()) == 0 {
		warnings = append(warnings, "the root's key is not in the swarm and stays; change what managers prove themselves with to who has it")
	}
	return joined, warnings, tx.PutCluster(c)
}

// putDown has a node be a worker, unless it is to be one already.
func (s *Server) putDown(tx *store.Tx, n *modelv1.Node, ref string) (warnings []string, err error) {
	if n.GetSpec().GetRole() != manager {
		if n.GetRole() != manager {
			warnings = []string{fmt.Sprintf("node %s is a worker, and knows keys of the swarm only if it was a manager before", ref)}
		}
		return warnings, nil
	}
	n = proto.CloneOf(n)
	n.Spec.Role = worker
	managers := managersBeside(tx, n)
	if err := s.demotable(n, ref, managers); err != nil {
		return nil, err
	}
	if managers == 2 {
		warnings = append(warnings, twoManagers)
	}
	return warnings, tx.PutNode(n)
}

// nameOf is what people call a node.
func nameOf(n *modelv1.Node, x id.ID) string {
	switch {
	case n.GetSpec().GetName() != "":
		return n.GetSpec().GetName()
	case n.GetDescription().GetHostname() != "":
		return n.GetDescription().GetHostname()
	}
	return x.Short()
}

// noTokens refuses join tokens while nodes are condemned: they pin the root whose key
// those have.
func (s *Server) noTokens(c *modelv1.Cluster) error {
	x := c.GetCondemnation()
	if x == nil {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "there are no join tokens for now: manager %s may be compromised, and a token would pin the root whose key it has",
		s.cfg.Condemn.Names(x.GetNodes())), `wait until the root is another; "ctl swarm ca" shows how far that is`)
}

// mayPromote refuses to make a node a manager that is condemned.
func mayPromote(c *modelv1.Cluster, x id.ID, ref string) error {
	for _, n := range c.GetCondemnation().GetNodes() {
		if idOf(n.GetNode()) == x {
			return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s may be compromised, and what it knew is still being replaced: it does not become a manager", ref),
				`wait for the end of that; "ctl swarm ca" shows how far it is`)
		}
	}
	return nil
}

// stay refuses to go back to a root whose key the condemned have.
func (s *Server) stay(c *modelv1.Cluster) error {
	x := c.GetCondemnation()
	if x == nil {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the rotation of the root is not aborted: manager %s may be compromised, and has the key of the root of before",
		s.cfg.Condemn.Names(x.GetNodes())), "ctl swarm ca --rotate follows it; --deadline and --on-straggler say when it is to end and how")
}

// RevokeToken ends a join token for a reason that is nobody's wish.
func RevokeToken(tx *store.Tx, token id.ID, reason string) error {
	return revoke(tx, token, "the swarm", reason)
}

// leastFollow is the least time that who may only rotate gives nodes and users to
// follow: those that do not are locked out.
const leastFollow = time.Hour

// narrow holds who may rotate the root, and is no admin, to what that is for: no
// root of his own, no setting, no haste, and nobody else's rotation.
func narrow(ctx context.Context, msg *controlv1.RotateRootRequest) error {
	if isAdmin(ctx) {
		return nil
	}
	var f faults
	f.check(len(msg.GetCertificate()) == 0 && len(msg.GetKey()) == 0, "a root of one's own")
	f.check(len(msg.GetExternal()) == 0 && len(msg.GetCross()) == 0, "a root whose key is elsewhere")
	f.check(msg.GetCertExpiry() == 0, "another life of certificates")
	f.check(!msg.GetReplace(), "another root in the place of the one that is to follow")
	f.check(msg.GetDeadline() == 0 || time.Duration(msg.GetDeadline()) >= leastFollow, "a deadline of less than %v", leastFollow)
	if len(f) == 0 {
		return nil
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "rotation of the root: %s: takes the role admin", strings.Join(f, "; ")), "leave it out, or have an admin do it")
}

// asItIs is what a request asks for of a rotation that is under way in c: who may
// only rotate joins it, and changes nothing about it.
func asItIs(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) *controlv1.RotateRootRequest {
	if isAdmin(ctx) || c.GetRoot().GetRotation() == nil {
		return msg
	}
	msg = proto.CloneOf(msg)
	msg.Deadline, msg.OnStraggler = 0, 0
	return msg
}
