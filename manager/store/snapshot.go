package store

import (
	"bytes"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Snapshot is the whole state at one index. It never changes, costs nothing to
// hold and is read without a lock. The objects it gives out are shared: they are
// read with their getters and never written.
//
// A lookup that finds nothing returns nil.
type Snapshot struct {
	state *state
	pace  pace
	// forking is held while the trees are forked (see table.fork).
	forking sync.Mutex
}

// fork returns a working copy of the state.
func (s *Snapshot) fork() *state {
	s.forking.Lock()
	defer s.forking.Unlock()
	return s.state.fork()
}

// Index returns the index of the last entry the snapshot holds.
func (s *Snapshot) Index() uint64 { return s.state.index }

// LogTime returns the time of the last entry (R12); the Unix epoch before any.
func (s *Snapshot) LogTime() time.Time { return time.Unix(0, s.state.now) }

// Cluster returns the one cluster object, nil before init.
func (s *Snapshot) Cluster() *modelv1.Cluster { return s.state.cluster }

// Node returns the node with the id.
func (s *Snapshot) Node(x id.ID) *modelv1.Node {
	n, _ := s.state.nodes.get(&modelv1.Node{Id: x[:]})
	return n
}

// Nodes walks all nodes by id.
func (s *Snapshot) Nodes() iter.Seq[*modelv1.Node] { return s.state.nodes.all() }

// Service returns the service with the id.
func (s *Snapshot) Service(x id.ID) *modelv1.Service {
	v, _ := s.state.services.get(&modelv1.Service{Id: x[:]})
	return v
}

// Services walks all services by id.
func (s *Snapshot) Services() iter.Seq[*modelv1.Service] { return s.state.services.all() }

// ServiceByName returns the service with the name.
func (s *Snapshot) ServiceByName(name string) *modelv1.Service {
	from := &modelv1.Service{Spec: &modelv1.ServiceSpec{Name: name}}
	for v := range s.state.services.run(serviceByName, from, func(v *modelv1.Service) bool { return v.GetSpec().GetName() == name }) {
		return v
	}
	return nil
}

// Revision returns one revision of a service.
func (s *Snapshot) Revision(service id.ID, number uint64) *modelv1.Revision {
	r, _ := s.state.revisions.get(&modelv1.Revision{Service: service[:], Number: number})
	return r
}

// Revisions walks the revisions of a service by number.
func (s *Snapshot) Revisions(service id.ID) iter.Seq[*modelv1.Revision] {
	return s.state.revisions.run(0, &modelv1.Revision{Service: service[:]},
		func(r *modelv1.Revision) bool { return bytes.Equal(r.GetService(), service[:]) })
}

// Task returns the task with the id.
func (s *Snapshot) Task(x id.ID) *Task {
	t, _ := s.state.tasks.get(&Task{ID: x})
	return t
}

// Tasks walks all tasks by id.
func (s *Snapshot) Tasks() iter.Seq[*Task] { return s.state.tasks.all() }

// CountTasks returns the number of tasks.
func (s *Snapshot) CountTasks() int { return s.state.tasks.len() }

// TasksUnderWay returns how many tasks are under way (see Task.UnderWay). It walks
// nothing.
func (s *Snapshot) TasksUnderWay() int { return s.state.underWay }

// TasksByService walks the tasks of a service by slot, then age, then id.
func (s *Snapshot) TasksByService(service id.ID) iter.Seq[*Task] {
	return s.state.tasks.run(taskByService, &Task{Service: service},
		func(t *Task) bool { return t.Service == service })
}

// TasksBySlot walks the tasks that are or were in a slot, oldest first.
func (s *Snapshot) TasksBySlot(service id.ID, slot uint64) iter.Seq[*Task] {
	return s.state.tasks.run(taskByService, &Task{Service: service, Slot: slot},
		func(t *Task) bool { return t.Service == service && t.Slot == slot })
}

// TasksByNode walks the tasks placed on a node, ended ones too, by id.
func (s *Snapshot) TasksByNode(node id.ID) iter.Seq[*Task] {
	return s.state.tasks.run(taskByNode, &Task{Node: node}, func(t *Task) bool { return t.Node == node })
}

// CountByNode returns how many tasks are placed on a node, ended ones too.
func (s *Snapshot) CountByNode(node id.ID) int {
	n := 0
	for range s.TasksByNode(node) {
		n++
	}
	return n
}

// Member returns the member with the raft id.
func (s *Snapshot) Member(raftID uint64) *modelv1.Member {
	m, _ := s.state.members.get(&modelv1.Member{RaftId: raftID})
	return m
}

// Members walks all members by raft id.
func (s *Snapshot) Members() iter.Seq[*modelv1.Member] { return s.state.members.all() }

// MemberByNode returns the member that is on the node.
func (s *Snapshot) MemberByNode(node id.ID) *modelv1.Member {
	in := func(m *modelv1.Member) bool { return bytes.Equal(m.GetNode(), node[:]) }
	for m := range s.state.members.run(memberByNode, &modelv1.Member{Node: node[:]}, in) {
		return m
	}
	return nil
}

// User returns the user with the id.
func (s *Snapshot) User(x id.ID) *modelv1.User {
	u, _ := s.state.users.get(&modelv1.User{Id: x[:]})
	return u
}

// Users walks all users by id.
func (s *Snapshot) Users() iter.Seq[*modelv1.User] { return s.state.users.all() }

// CountUsers returns the number of users.
func (s *Snapshot) CountUsers() int { return s.state.users.len() }

// Token returns the join token with the id.
func (s *Snapshot) Token(x id.ID) *modelv1.JoinToken {
	t, _ := s.state.tokens.get(&modelv1.JoinToken{Id: x[:]})
	return t
}

// TokenByHash returns the join token whose secret has the SHA-256.
func (s *Snapshot) TokenByHash(hash []byte) *modelv1.JoinToken {
	same := func(t *modelv1.JoinToken) bool { return bytes.Equal(t.GetSecretHash(), hash) }
	for t := range s.state.tokens.run(tokenByHash, &modelv1.JoinToken{SecretHash: hash}, same) {
		return t
	}
	return nil
}

// Tokens walks all join tokens by id.
func (s *Snapshot) Tokens() iter.Seq[*modelv1.JoinToken] { return s.state.tokens.all() }

// CountTokens returns the number of join tokens, those that are over included.
func (s *Snapshot) CountTokens() int { return s.state.tokens.len() }

// Claim returns the claim on (kind, key).
func (s *Snapshot) Claim(kind, key string) *modelv1.Claim {
	c, _ := s.state.claims.get(&modelv1.Claim{Kind: kind, Key: key})
	return c
}

// Holder returns who owns (kind, key), if anyone does.
func (s *Snapshot) Holder(kind, key string) (owner id.ID, ok bool) {
	c := s.Claim(kind, key)
	return asID(c.GetOwner()), c != nil
}

// ClaimsOwnedBy walks the claims of one owner.
func (s *Snapshot) ClaimsOwnedBy(owner id.ID) iter.Seq[*modelv1.Claim] {
	return s.state.claims.run(claimByOwner, &modelv1.Claim{Owner: owner[:]},
		func(c *modelv1.Claim) bool { return bytes.Equal(c.GetOwner(), owner[:]) })
}

// ClaimsOn walks the claims of one kind whose key begins with prefix.
func (s *Snapshot) ClaimsOn(kind, prefix string) iter.Seq[*modelv1.Claim] {
	return s.state.claims.run(0, &modelv1.Claim{Kind: kind, Key: prefix},
		func(c *modelv1.Claim) bool { return c.GetKind() == kind && strings.HasPrefix(c.GetKey(), prefix) })
}

// Answered returns the row of a request that was answered within the last 24 h
// of log time, or is one of the newest (R10).
func (s *Snapshot) Answered(caller string, request []byte) *logv1.Answered {
	a, _ := s.state.answered.get(&logv1.Answered{Request: &logv1.Request{Caller: caller, Id: request}})
	return a
}

// Trail returns the audit trail. What it gives out is shared: stone.
func (s *Snapshot) Trail() *audit.Trail { return &s.state.trail }

// Version returns the version an Expect of the object would name: 0 if there is
// no such object, a task's decided index, else the index that last wrote it.
func (s *Snapshot) Version(kind logv1.Kind, key []byte) uint64 { return s.state.version(kind, key) }
