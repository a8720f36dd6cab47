package store

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

// operate applies one operation, whose messages become the state's own.
func (s *state) operate(op *logv1.Operation) *Conflict {
	switch op := op.GetOp().(type) {
	case *logv1.Operation_PutCluster:
		return s.putCluster(op.PutCluster)
	case *logv1.Operation_PutNode:
		return s.putNode(op.PutNode)
	case *logv1.Operation_PutMember:
		return s.putMember(op.PutMember)
	case *logv1.Operation_PutService:
		return s.putService(op.PutService)
	case *logv1.Operation_PutRevision:
		return s.putRevision(op.PutRevision)
	case *logv1.Operation_CreateTask:
		return s.createTask(op.CreateTask)
	case *logv1.Operation_Decide:
		return s.decide(op.Decide)
	case *logv1.Operation_Report:
		s.report(op.Report)
		return nil
	case *logv1.Operation_Delete:
		return s.remove(op.Delete)
	case *logv1.Operation_Claim:
		return s.claim(op.Claim)
	case *logv1.Operation_Release:
		return s.release(op.Release)
	case *logv1.Operation_NodeSeen:
		s.nodeSeen(op.NodeSeen)
		return nil
	case *logv1.Operation_NodeRole:
		s.nodeRole(op.NodeRole)
		return nil
	case *logv1.Operation_Note:
		s.note(Change{Kind: KindNote, Note: op.Note})
		return nil
	case *logv1.Operation_Reports:
		s.reported(op.Reports)
		return nil
	case *logv1.Operation_PutUser:
		return s.putUser(op.PutUser)
	case *logv1.Operation_PutToken:
		return s.putToken(op.PutToken)
	}
	return refuse(0, nil, "operation of an unknown kind")
}

// stamp returns the meta of an object that is written now; old is that of the
// object in its place, nil if there is none.
func (s *state) stamp(old *modelv1.Meta) *modelv1.Meta {
	m := &modelv1.Meta{Version: s.index, CreatedIndex: s.index, CreatedAt: s.now, UpdatedAt: s.now}
	if old != nil {
		m.CreatedIndex, m.CreatedAt = old.GetCreatedIndex(), old.GetCreatedAt()
	}
	return m
}

// badID refuses an object whose id is none.
func badID(kind logv1.Kind, key []byte) *Conflict {
	if len(key) == id.Size && !asID(key).IsZero() {
		return nil
	}
	return refuse(kind, key, "has an id of %d bytes, want %d that are not zero", len(key), id.Size)
}

func (s *state) putCluster(c *modelv1.Cluster) *Conflict {
	if bad := badID(KindCluster, c.GetId()); bad != nil {
		return bad
	}
	if was := s.cluster; was != nil && was.GetFips() != c.GetFips() {
		return refuse(KindCluster, c.GetId(), "asks for FIPS 140-3 mode or does not, as it was founded: it was %v and would be %v", was.GetFips(), c.GetFips())
	}
	old := s.cluster
	if old != nil && !bytes.Equal(old.GetId(), c.GetId()) {
		return refuse(KindCluster, c.GetId(), "is not the cluster this state belongs to, %s", asID(old.GetId()))
	}
	if r := c.GetRoot(); len(r.GetExternal()) > 0 && len(r.GetKey()) > 0 {
		return refuse(KindCluster, c.GetId(), "has a root whose key is said to be at an external CA, and holds it")
	}
	c.Meta = s.stamp(old.GetMeta())
	c.FeatureLevel = max(c.GetFeatureLevel(), old.GetFeatureLevel()) // it never falls (R27)
	s.undo = append(s.undo, func() { s.cluster = old })
	s.cluster = c
	s.note(Change{Kind: KindCluster, Key: c.GetId()})
	return nil
}

// putNode writes the record of a node. Status and description of a node that is
// there already are NodeSeen's to write and stay as they are: they have another
// writer, whose word does not move the version.
func (s *state) putNode(n *modelv1.Node) *Conflict {
	if bad := badID(KindNode, n.GetId()); bad != nil {
		return bad
	}
	old, had := s.nodes.get(n)
	if had {
		n.Status, n.Description = old.GetStatus(), old.GetDescription()
	}
	n.Meta = s.stamp(old.GetMeta())
	put(s, &s.nodes, n, Change{Kind: KindNode, Key: n.GetId()})
	return nil
}

func (s *state) nodeSeen(seen *logv1.NodeSeen) {
	old, ok := s.nodes.get(&modelv1.Node{Id: seen.GetNode()})
	if !ok {
		return
	}
	n := proto.CloneOf(old)
	if seen.GetStatus() != nil {
		n.Status = seen.GetStatus()
	}
	if seen.GetDescription() != nil {
		n.Description = seen.GetDescription()
	}
	put(s, &s.nodes, n, Change{Kind: KindNode, Key: n.GetId()})
}

// nodeRole writes what a node is. It cannot be refused, because it comes with a
// change of the raft membership that has been made already (R25). A role with a
// reason is nobody's wish, so the wish is changed with it.
func (s *state) nodeRole(role *logv1.NodeRole) {
	old, ok := s.nodes.get(&modelv1.Node{Id: role.GetNode()})
	if !ok || old.GetRole() == role.GetRole() && role.GetReason() == "" {
		return
	}
	n := proto.CloneOf(old)
	n.Role, n.RoleReason = role.GetRole(), role.GetReason()
	if n.GetRoleReason() != "" {
		n.Spec = cmp.Or(n.GetSpec(), &modelv1.NodeSpec{})
		n.Spec.Role = n.GetRole()
	}
	n.Meta = s.stamp(old.GetMeta())
	put(s, &s.nodes, n, Change{Kind: KindNode, Key: n.GetId()})
}

func (s *state) putMember(m *modelv1.Member) *Conflict {
	if m.GetRaftId() == 0 {
		return refuse(KindMember, MemberKey(0), "has no raft id")
	}
	if bad := badID(KindNode, m.GetNode()); bad != nil {
		return bad
	}
	old, _ := s.members.get(m)
	m.Meta = s.stamp(old.GetMeta())
	put(s, &s.members, m, memberChange(m))
	return nil
}

func memberChange(m *modelv1.Member) Change {
	return Change{Kind: KindMember, Key: MemberKey(m.GetRaftId()), Node: asID(m.GetNode())}
}

func (s *state) putService(v *modelv1.Service) *Conflict {
	if bad := badID(KindService, v.GetId()); bad != nil {
		return bad
	}
	old, _ := s.services.get(v)
	v.Meta = s.stamp(old.GetMeta())
	put(s, &s.services, v, Change{Kind: KindService, Key: v.GetId()})
	return nil
}

// putRevision adds a revision. One that is there is immutable (R28).
func (s *state) putRevision(r *modelv1.Revision) *Conflict {
	if bad := badID(KindService, r.GetService()); bad != nil {
		return bad
	}
	key := RevisionKey(asID(r.GetService()), r.GetNumber())
	if _, had := s.revisions.get(r); had {
		return refuse(KindRevision, key, "exists already and never changes")
	}
	r.Meta = s.stamp(nil)
	put(s, &s.revisions, r, revisionChange(r))
	return nil
}

func revisionChange(r *modelv1.Revision) Change {
	service := asID(r.GetService())
	return Change{Kind: KindRevision, Key: RevisionKey(service, r.GetNumber()), Service: service}
}

// remove deletes an object; one that is not there is deleted already. It refuses
// an object in use (R9). With a service go its revisions, with any object the
// claims it owns.
func (s *state) remove(d *logv1.Delete) *Conflict {
	switch d.GetKind() {
	case KindRevision:
		return s.removeRevision(d.GetKey())
	case KindMember:
		if raftID, ok := ParseMemberKey(d.GetKey()); ok {
			if m, ok := s.members.get(&modelv1.Member{RaftId: raftID}); ok {
				drop(s, &s.members, m, memberChange(m))
			}
		}
		return nil
	case KindTask:
		if t, ok := s.tasks.get(&Task{ID: asID(d.GetKey())}); ok {
			s.dropTask(t)
		}
		return nil
	case KindUser:
		s.removeUser(asID(d.GetKey()))
		return nil
	case KindToken:
		s.removeToken(asID(d.GetKey()))
		return nil
	case KindNode, KindService:
		return s.removeOwner(d)
	}
	return refuse(d.GetKind(), d.GetKey(), "is of a kind that is not deleted")
}

// removeOwner deletes a node or a service, which others may refer to.
func (s *state) removeOwner(d *logv1.Delete) *Conflict {
	x := asID(d.GetKey())
	if s.version(d.GetKind(), d.GetKey()) == 0 {
		return nil
	}
	snap := Snapshot{state: s}
	for c := range snap.ClaimsOn(InUse(d.GetKind()), x.String()+"/") {
		return refuse(d.GetKind(), d.GetKey(), "is in use by %s", asID(c.GetOwner()))
	}
	if d.GetKind() == KindNode {
		if m := snap.MemberByNode(x); m != nil {
			return refuse(KindNode, d.GetKey(), "is still member %x of the managers", m.GetRaftId())
		}
		drop(s, &s.nodes, &modelv1.Node{Id: x[:]}, Change{Kind: KindNode, Key: x.Bytes()})
	} else {
		for t := range snap.TasksByService(x) {
			return refuse(KindService, d.GetKey(), "still has task %s", t.ID)
		}
		for _, r := range slices.Collect(snap.Revisions(x)) {
			drop(s, &s.revisions, r, revisionChange(r))
		}
		drop(s, &s.services, &modelv1.Service{Id: x[:]}, Change{Kind: KindService, Key: x.Bytes()})
	}
	s.dropClaimsOf(x)
	return nil
}

func (s *state) dropClaimsOf(owner id.ID) {
	snap := Snapshot{state: s}
	for _, c := range slices.Collect(snap.ClaimsOwnedBy(owner)) {
		drop(s, &s.claims, c, claimChange(c))
	}
}

// removeRevision deletes a revision that neither a task nor its service names.
func (s *state) removeRevision(key []byte) *Conflict {
	b, number, ok := parseRevisionKey(key)
	if !ok {
		return nil
	}
	snap, service := Snapshot{state: s}, id.ID(b)
	r := snap.Revision(service, number)
	if r == nil {
		return nil
	}
	v := snap.Service(service)
	if number == v.GetCurrent() || number == v.GetPrevious() || number == v.GetTarget() {
		return refuse(KindRevision, key, "is named by its service")
	}
	for t := range snap.TasksByService(service) {
		if t.Revision == number {
			return refuse(KindRevision, key, "is named by task %s", t.ID)
		}
	}
	drop(s, &s.revisions, r, revisionChange(r))
	return nil
}

func claimChange(c *modelv1.Claim) Change {
	return Change{Kind: KindClaim, Key: ClaimKey(c.GetKind(), c.GetKey())}
}

// claim puts a claim that nobody holds.
func (s *state) claim(c *modelv1.Claim) *Conflict {
	key := ClaimKey(c.GetKind(), c.GetKey())
	if c.GetKind() == "" || bytes.IndexByte([]byte(c.GetKind()), 0) >= 0 {
		return refuse(KindClaim, key, "has no kind")
	}
	if bad := badID(KindClaim, c.GetOwner()); bad != nil {
		return refuse(KindClaim, key, "has no owner")
	}
	if old, had := s.claims.get(c); had {
		return refuse(KindClaim, key, "belongs to %s already", asID(old.GetOwner()))
	}
	c.Version = s.index
	put(s, &s.claims, c, claimChange(c))
	return nil
}

// release deletes a claim that owner holds.
func (s *state) release(c *modelv1.Claim) *Conflict {
	old, had := s.claims.get(c)
	if !had || !bytes.Equal(old.GetOwner(), c.GetOwner()) {
		return refuse(KindClaim, ClaimKey(c.GetKind(), c.GetKey()), "does not belong to %s", asID(c.GetOwner()))
	}
	drop(s, &s.claims, old, claimChange(old))
	return nil
}
