package store

// Sizes is how many objects a state holds, by kind.
type Sizes struct {
	Nodes, Members, Services, Revisions, Tasks, Claims, Answered int
}

// Sizes counts the objects of the state. It walks nothing.
func (s *Snapshot) Sizes() Sizes {
	return Sizes{
		Nodes: s.state.nodes.len(), Members: s.state.members.len(), Services: s.state.services.len(),
		Revisions: s.state.revisions.len(), Tasks: s.state.tasks.len(), Claims: s.state.claims.len(),
		Answered: s.state.answered.len(),
	}
}
