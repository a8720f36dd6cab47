package store

import (
	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

// A Tx is a transaction in the making: it reads a snapshot with its own writes in
// it, and records the writes with the versions they rely on. Nothing it reads is
// relied on unless it is written or named by Expect; "nobody holds this" is said
// by Claim, never by having looked (R9).
//
// Every write is tried on the working view by the code that apply runs, so a
// *Conflict comes back at once: a name that is taken, an object in use.
type Tx struct {
	// Snapshot is the working view. What it gives out may be of this transaction:
	// versions and times in it are then a guess.
	*Snapshot
	base    *Snapshot
	unit    logv1.Unit
	touched map[string]bool // kind and key of the objects whose version is expected
}

func newTx(base *Snapshot) *Tx {
	view := base.fork()
	view.index++
	return &Tx{Snapshot: &Snapshot{state: view, pace: base.pace}, base: base, touched: make(map[string]bool)}
}

// finish returns what was recorded.
func (tx *Tx) finish() *logv1.Unit { return &tx.unit }

// Base returns the snapshot the transaction began with.
func (tx *Tx) Base() *Snapshot { return tx.base }

// Expect relies on an object having a version, 0 for none (see Snapshot.Version).
func (tx *Tx) Expect(kind logv1.Kind, key []byte, version uint64) {
	tx.touched[spot(kind, key)] = true
	tx.unit.Expects = append(tx.unit.Expects, &logv1.Expect{Kind: kind, Key: key, Version: version})
}

// rely expects the version that the base snapshot holds, once.
func (tx *Tx) rely(kind logv1.Kind, key []byte) {
	if !tx.touched[spot(kind, key)] {
		tx.Expect(kind, key, tx.base.Version(kind, key))
	}
}

// write relies on the object at key, tries op on the view, and records it.
func (tx *Tx) write(kind logv1.Kind, key []byte, op *logv1.Operation) error {
	tx.rely(kind, key)
	return tx.do(op)
}

// do tries op on the view and records it. The view keeps a copy of its own.
func (tx *Tx) do(op *logv1.Operation) error {
	st := tx.state
	undo, changes := st.mark()
	if c := st.operate(proto.CloneOf(op)); c != nil {
		st.rollback(undo, changes)
		return c
	}
	tx.unit.Operations = append(tx.unit.Operations, op)
	return nil
}

// current refuses an object that was made from another version than the one the
// transaction sees: it would overwrite what its maker has not seen.
func (tx *Tx) current(kind logv1.Kind, key []byte, meta *modelv1.Meta) error {
	made, base, view := meta.GetVersion(), tx.base.Version(kind, key), tx.Version(kind, key)
	if made == base || made == view {
		return nil
	}
	if made == 0 {
		return refuse(kind, key, "exists already, with version %d", base)
	}
	return refuse(kind, key, "has version %d, this change was made from %d", base, made)
}

// PutCluster writes the cluster, made from the one tx read, or new.
func (tx *Tx) PutCluster(c *modelv1.Cluster) error {
	if err := tx.current(KindCluster, c.GetId(), c.GetMeta()); err != nil {
		return err
	}
	c = proto.CloneOf(c)
	c.Meta = nil
	return tx.write(KindCluster, c.GetId(), &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
}

// PutNode writes a node, made from the one tx read, or new. Status and description
// of a node that exists are not written: NodeSeen is their writer.
func (tx *Tx) PutNode(n *modelv1.Node) error {
	if err := tx.current(KindNode, n.GetId(), n.GetMeta()); err != nil {
		return err
	}
	existed := n.GetMeta() != nil
	n = proto.CloneOf(n)
	n.Meta = nil
	if existed {
		n.Status, n.Description = nil, nil
	}
	return tx.write(KindNode, n.GetId(), &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: n}})
}

// PutMember writes a member, made from the one tx read, or new.
func (tx *Tx) PutMember(m *modelv1.Member) error {
	key := MemberKey(m.GetRaftId())
	if err := tx.current(KindMember, key, m.GetMeta()); err != nil {
		return err
	}
	m = proto.CloneOf(m)
	m.Meta = nil
	return tx.write(KindMember, key, &logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: m}})
}

// PutService writes a service, made from the one tx read, or new.
func (tx *Tx) PutService(v *modelv1.Service) error {
	if err := tx.current(KindService, v.GetId(), v.GetMeta()); err != nil {
		return err
	}
	v = proto.CloneOf(v)
	v.Meta = nil
	return tx.write(KindService, v.GetId(), &logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
}

// PutUser writes a user, made from the one tx read, or new.
func (tx *Tx) PutUser(u *modelv1.User) error {
	if err := tx.current(KindUser, u.GetId(), u.GetMeta()); err != nil {
		return err
	}
	u = proto.CloneOf(u)
	u.Meta = nil
	return tx.write(KindUser, u.GetId(), &logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: u}})
}

// PutToken writes a join token, made from the one tx read, or new.
func (tx *Tx) PutToken(t *modelv1.JoinToken) error {
	if err := tx.current(KindToken, t.GetId(), t.GetMeta()); err != nil {
		return err
	}
	t = proto.CloneOf(t)
	t.Meta = nil
	return tx.write(KindToken, t.GetId(), &logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: t}})
}

// PutRevision adds a revision.
func (tx *Tx) PutRevision(r *modelv1.Revision) error {
	r = proto.CloneOf(r)
	r.Meta = nil
	key := RevisionKey(asID(r.GetService()), r.GetNumber())
	return tx.write(KindRevision, key, &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: r}})
}

// CreateTask adds a task, placed if it has a node.
func (tx *Tx) CreateTask(t *Task) error {
	p := proto.CloneOf(t.Proto())
	return tx.write(KindTask, p.GetId(), &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: p}})
}

// Decide changes what managers decide of a task.
func (tx *Tx) Decide(d *logv1.Decide) error {
	return tx.write(KindTask, d.GetTask(), &logv1.Operation{Op: &logv1.Operation_Decide{Decide: proto.CloneOf(d)}})
}

// Report joins an observation into a task. It relies on nothing and is refused by
// nothing (R5).
func (tx *Tx) Report(r *logv1.Report) error {
	return tx.do(&logv1.Operation{Op: &logv1.Operation_Report{Report: proto.CloneOf(r)}})
}

// NodeSeen writes status and description of a node. It relies on nothing.
func (tx *Tx) NodeSeen(s *logv1.NodeSeen) error {
	return tx.do(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: proto.CloneOf(s)}})
}

// Delete removes the object tx read. One that is not there is removed already. It
// is refused while the object is in use; the claims it owns go with it.
func (tx *Tx) Delete(kind logv1.Kind, key []byte) error {
	return tx.write(kind, key, &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: kind, Key: key}}})
}

// Claim makes owner the one who has (kind, key). It is refused if anyone has it.
func (tx *Tx) Claim(kind, key string, owner id.ID) error {
	return tx.do(&logv1.Operation{Op: &logv1.Operation_Claim{Claim: &modelv1.Claim{Kind: kind, Key: key, Owner: owner.Bytes()}}})
}

// Release takes (kind, key) from owner. It is refused if owner does not have it.
func (tx *Tx) Release(kind, key string, owner id.ID) error {
	return tx.do(&logv1.Operation{Op: &logv1.Operation_Release{Release: &modelv1.Claim{Kind: kind, Key: key, Owner: owner.Bytes()}}})
}
