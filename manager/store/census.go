package store

import (
	"iter"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Census is how many objects of each kind a snapshot holds, the cluster aside.
type Census struct {
	Nodes, Members, Services, Revisions, Tasks, Claims, Answered int
}

// Census counts the objects.
func (s *Snapshot) Census() Census {
	return Census{
		Nodes: s.state.nodes.len(), Members: s.state.members.len(), Services: s.state.services.len(),
		Revisions: s.state.revisions.len(), Tasks: s.state.tasks.len(), Claims: s.state.claims.len(),
		Answered: s.state.answered.len(),
	}
}

// AllRevisions walks the revisions of all services, by service and number.
func (s *Snapshot) AllRevisions() iter.Seq[*modelv1.Revision] { return s.state.revisions.all() }

// Claims walks all claims by kind and key.
func (s *Snapshot) Claims() iter.Seq[*modelv1.Claim] { return s.state.claims.all() }
