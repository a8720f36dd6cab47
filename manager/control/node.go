package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	manager = modelv1.Role_ROLE_MANAGER
	worker  = modelv1.Role_ROLE_WORKER
)

// nodeView is a node and what this manager sees of it.
func (s *Server) nodeView(snap *store.Snapshot, n *modelv1.Node) *controlv1.NodeView {
	x := idOf(n.GetId())
	v := &controlv1.NodeView{Node: n, Self: x == s.cfg.Self}
	if m := snap.MemberByNode(x); m != nil {
		v.Manager = &controlv1.ManagerStatus{
			Leader:       m.GetRaftId() == s.cfg.Group.Leader(),
			Reachability: s.cfg.Group.Reachability(m.GetRaftId()),
			Address:      m.GetAddress(), Voter: m.GetVoter(), RaftId: m.GetRaftId(),
			UnreachableSince: s.cfg.Group.MissedSince(m.GetRaftId()),
		}
	}
	return v
}

// ListNodes shows the nodes that pass the filter, by id.
func (s *Server) ListNodes(_ context.Context, msg *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	if err := onlyFor("nodes", msg.GetFilter(), "ids", "names", "labels", "node_labels", "roles", "memberships"); err != nil {
		return nil, err
	}
	snap, resp := s.snapshot(), &controlv1.ListNodesResponse{Clock: time.Now().UnixNano()}
	for n := range snap.Nodes() {
		if nodePasses(n, msg.GetFilter()) {
			resp.Nodes = append(resp.Nodes, s.nodeView(snap, n))
		}
	}
	return resp, nil
}

func nodePasses(n *modelv1.Node, f *controlv1.Filter) bool {
	return idPasses(idOf(n.GetId()), f.GetIds()) &&
		namePasses(f.GetNames(), n.GetSpec().GetName(), n.GetDescription().GetHostname()) &&
		labelsPass(n.GetDescription().GetEngineLabels(), f.GetLabels()) &&
		labelsPass(n.GetSpec().GetLabels(), f.GetNodeLabels()) &&
		oneOf(n.GetRole(), f.GetRoles()) &&
		oneOf(membership(n), f.GetMemberships())
}

// membership is what a node's is for who looks: one that waits for an operator to
// allow its next certificate is pending too.
func membership(n *modelv1.Node) modelv1.Membership {
	if w := n.GetWait(); w != nil && w.GetVerdict() == modelv1.RenewalWait_VERDICT_UNSPECIFIED {
		return waiting
	}
	return n.GetMembership()
}

// GetNode shows one node.
func (s *Server) GetNode(_ context.Context, msg *controlv1.GetNodeRequest) (*controlv1.GetNodeResponse, error) {
	snap := s.snapshot()
	n, err := s.node(snap, msg.GetRef())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetNodeResponse{
		Node: s.nodeView(snap, n), Roots: snap.Cluster().GetRoot().GetCertificates(), Clock: time.Now().UnixNano(),
	}, nil
}

// UpdateNode changes what the operator wants of a node. Its role follows later:
// the group is changed first.
func (s *Server) UpdateNode(ctx context.Context, msg *controlv1.UpdateNodeRequest) (*controlv1.UpdateNodeResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil {
		return nil, err
	} else if done {
		return s.updated(a.first(), false, nil)
	}
	if err := checkNodeUpdate(msg); err != nil {
		return nil, err
	}
	n, err := s.node(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(n.GetId())
	var warnings []string
	var unchanged bool
	a, err := s.change(ctx, req, func(tx *store.Tx) (err error) {
		warnings, unchanged, err = s.editNode(tx, x, msg)
		return err
	}, x)
	if err != nil {
		return nil, err
	}
	return s.updated(a.first(), unchanged, warnings)
}

func (s *Server) updated(x id.ID, unchanged bool, warnings []string) (*controlv1.UpdateNodeResponse, error) {
	snap := s.snapshot()
	n := snap.Node(x)
	if n == nil {
		return nil, rpc.Errorf(errdefs.ErrNotFound, "node %s not found", x)
	}
	return &controlv1.UpdateNodeResponse{Node: s.nodeView(snap, n), Unchanged: unchanged, Warnings: warnings}, nil
}

func checkNodeUpdate(msg *controlv1.UpdateNodeRequest) error {
	var f faults
	if msg.Role != nil {
		f.check(msg.GetRole() == manager || msg.GetRole() == worker, "role: want worker or manager")
	}
	if msg.Availability != nil {
		_, known := modelv1.Availability_name[int32(msg.GetAvailability())]
		f.check(known && msg.GetAvailability() != 0, "availability: want active, pause or drain")
	}
	f.labels("label", msg.GetLabelsAdd())
	if msg.GetName() != "" {
		f.name("name", msg.GetName())
	}
	return f.refusal("node " + msg.GetRef())
}

// editNode writes the new spec of a node. unchanged: the request asked for no
// more than a role, and the node is to have it already.
func (s *Server) editNode(tx *store.Tx, x id.ID, msg *controlv1.UpdateNodeRequest) (warnings []string, unchanged bool, err error) {
	old := tx.Node(x)
	if old == nil {
		return nil, false, rpc.Errorf(errdefs.ErrNotFound, "node %s not found", msg.GetRef())
	}
	if have := old.GetMeta().GetVersion(); msg.GetVersion() != 0 && msg.GetVersion() != have {
		return nil, false, outOfSequence("node "+msg.GetRef(), have, msg.GetVersion())
	}
	n := proto.CloneOf(old)
	if n.Spec == nil {
		n.Spec = &modelv1.NodeSpec{Role: n.GetRole()}
	}
	editNodeSpec(n.Spec, msg)
	if proto.Equal(n.GetSpec(), old.GetSpec()) && !msg.GetRevoke() {
		return nil, msg.Role != nil, nil
	}
	if msg.GetRevoke() {
		if warnings, err = revokeCerts(tx, n, msg.GetRef()); err != nil {
			return nil, false, err
		}
	}
	if err := renameNode(tx, x, old.GetSpec().GetName(), n.GetSpec().GetName()); err != nil {
		return nil, false, err
	}
	if n.GetSpec().GetRole() != old.GetSpec().GetRole() {
		if warnings, err = s.turn(tx, n, msg.GetRef()); err != nil {
			return nil, false, err
		}
	}
	return warnings, false, tx.PutNode(n)
}

// revokeCerts makes all certificates of n void. A manager's are not: its vote must go
// first, in the order that keeps the quorum.
func revokeCerts(tx *store.Tx, n *modelv1.Node, ref string) (warnings []string, err error) {
	switch {
	case n.GetRole() == manager || n.GetSpec().GetRole() == manager || tx.MemberByNode(idOf(n.GetId())) != nil:
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s is a manager: it must be demoted before its certificates are revoked", ref),
			"ctl node demote "+ref)
	case n.GetCurrent() == nil:
		return nil, rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s has no certificate", ref)
	}
	n.Revoked, n.RevokedAt, n.Wait = n.GetCurrent().GetGeneration(), tx.Base().Now().UnixNano(), nil
	return []string{fmt.Sprintf("all certificates of node %s are void: its containers run on until its tasks are replaced, when its lease is over. "+
		"It asks for a new certificate by itself and waits for \"ctl node accept %s\"; if its key was stolen, the thief can ask too: "+
		"compare the key that is shown there, or remove the node and have it join again", ref, ref)}, nil
}

func editNodeSpec(spec *modelv1.NodeSpec, msg *controlv1.UpdateNodeRequest) {
	if msg.Role != nil {
		spec.Role = msg.GetRole()
	}
	if msg.Availability != nil {
		spec.Availability = msg.GetAvailability()
	}
	if msg.Name != nil {
		spec.Name = msg.GetName()
	}
	for _, k := range msg.GetLabelsRm() {
		delete(spec.GetLabels(), k)
	}
	if len(msg.GetLabelsAdd()) > 0 {
		if spec.Labels == nil {
			spec.Labels = make(map[string]string)
		}
		maps.Copy(spec.Labels, msg.GetLabelsAdd())
	}
}

// renameNode moves the claim on a node's name.
func renameNode(tx *store.Tx, x id.ID, old, name string) error {
	if old == name {
		return nil
	}
	if holder, held := tx.Holder(store.ClaimNodeName, name); held && name != "" {
		return rpc.Errorf(errdefs.ErrAlreadyExists, "the name %s belongs to node %s", name, holder)
	}
	if holder, held := tx.Holder(store.ClaimNodeName, old); held && holder == x {
		if err := tx.Release(store.ClaimNodeName, old, x); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	return tx.Claim(store.ClaimNodeName, name, x)
}

// turn checks a change of role and returns what the operator should know of it.
func (s *Server) turn(tx *store.Tx, n *modelv1.Node, ref string) (warnings []string, err error) {
	managers := managersBeside(tx, n) // that there will be
	if n.GetSpec().GetRole() == manager {
		if err := mayPromote(tx.Cluster(), idOf(n.GetId()), ref); err != nil {
			return nil, err
		}
		managers++
		if n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_DOWN {
			warnings = append(warnings, fmt.Sprintf("node %s is down: it becomes a manager when it is back", ref))
		}
	} else {
		if err := s.mayDemote(tx, n, ref, managers); err != nil {
			return nil, err
		}
		warnings = append(warnings, compromised(ref))
	}
	if managers == 2 {
		warnings = append(warnings, twoManagers)
	}
	return warnings, nil
}

const twoManagers = "a swarm of two managers tolerates no failure: " +
	"when either is lost there is no leader; a third manager makes it safe, and one alone risks less"

// managersBeside counts the nodes that are to be managers, without n.
func managersBeside(tx *store.Tx, n *modelv1.Node) (managers int) {
	for other := range tx.Nodes() {
		if other.GetSpec().GetRole() == manager && idOf(other.GetId()) != idOf(n.GetId()) {
			managers++
		}
	}
	return managers
}

// compromised is what R15 has a demotion say.
func compromised(ref string) string {
	return fmt.Sprintf("%s has held the keys of the swarm; if it may be compromised, bring its machine down and have them all replaced: "+
		"ctl node rm --compromised %s", ref, ref)
}

// mayDemote refuses a demotion that would leave no manager or no quorum. It
// touches the cluster object, because what it checks is a count: of two demotions
// that each saw enough managers, one conflicts and counts again (R9).
func (s *Server) mayDemote(tx *store.Tx, n *modelv1.Node, ref string, remain int) error {
	if err := s.demotable(n, ref, remain); err != nil {
		return err
	}
	if c := tx.Cluster(); c != nil {
		return tx.PutCluster(c)
	}
	return nil
}

// demotable refuses a demotion after which so few managers remain.
func (s *Server) demotable(n *modelv1.Node, ref string, remain int) error {
	if remain == 0 {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "attempting to demote the last manager of the swarm: node %s", ref),
			"promote another node first: ctl node promote NODE")
	}
	if err := s.cfg.Group.CanLose(idOf(n.GetId())); err != nil {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s cannot be demoted: this would result in a loss of quorum: %v", ref, err),
			"bring the other managers back, or promote another node first")
	}
	return nil
}

// RemoveNode forgets a node that is gone for good. A manager is never removed,
// by force or not: its vote must go first.
func (s *Server) RemoveNode(ctx context.Context, msg *controlv1.RemoveNodeRequest) (*controlv1.RemoveNodeResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.RemoveNodeResponse{Id: a.first().Bytes()}, err
	}
	n, err := s.node(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(n.GetId())
	var warnings []string
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		n := tx.Node(x)
		if n == nil {
			return rpc.Errorf(errdefs.ErrNotFound, "node %s not found", msg.GetRef())
		}
		warnings, err = mayRemove(tx.Snapshot, n, msg)
		if err != nil {
			return err
		}
		return tx.Delete(store.KindNode, x.Bytes())
	}, x)
	if err != nil {
		return nil, err
	}
	return &controlv1.RemoveNodeResponse{Id: x.Bytes(), Warnings: warnings}, nil
}

func mayRemove(snap *store.Snapshot, n *modelv1.Node, msg *controlv1.RemoveNodeRequest) (warnings []string, err error) {
	x, ref := idOf(n.GetId()), msg.GetRef()
	if n.GetRole() == manager || n.GetSpec().GetRole() == manager || snap.MemberByNode(x) != nil {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s is a manager: it must be demoted to worker before removal", ref),
			"ctl node demote "+ref)
	}
	if n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_DOWN || n.GetMembership() == modelv1.Membership_MEMBERSHIP_PENDING {
		return nil, nil
	}
	if !msg.GetForce() {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "node %s is not down and can't be removed", ref),
			"run \"ctl swarm leave\" on it first, or use --force")
	}
	if snap.CountByNode(x) > 0 {
		warnings = append(warnings, fmt.Sprintf("node %s was not down: its tasks are replaced at once, and its containers may run on beside them", ref))
	}
	return warnings, nil
}

// oneOf reports whether v is in want, or want is empty.
func oneOf[T comparable](v T, want []T) bool { return len(want) == 0 || slices.Contains(want, v) }
