package store

import (
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A mover applies the moves of one service. No move changes what another relies on
// but for the tasks themselves, so service and nodes are looked at once.
type mover struct {
	*state
	moves   *logv1.Moves
	service *Conflict
	nodes   []ground
}

// ground is a node, as far as it was looked at.
type ground struct {
	seen     bool
	node     id.ID
	conflict *Conflict
}

func (s *state) newMover(m *logv1.Moves) *mover {
	v := &mover{state: s, moves: m, nodes: make([]ground, len(m.GetNodes()))}
	v.service = s.expect(&logv1.Expect{Kind: KindService, Key: m.GetService(), Version: m.GetVersion()})
	if v.service == nil && m.GetVersion() == 0 {
		v.service = refuse(KindService, m.GetService(), "does not exist, its tasks cannot be moved")
	}
	return v
}

// move applies m whole, or takes it back and says why not.
func (v *mover) move(m *logv1.Move) *Conflict {
	if v.service != nil {
		return v.service
	}
	undo, changes := v.mark()
	c := v.choose(m.GetChoices())
	if c == nil && m.GetMake() != nil {
		c = v.make(m.GetMake())
	}
	if c != nil {
		v.rollback(undo, changes)
	}
	return c
}

func (v *mover) choose(choices []*logv1.Choice) *Conflict {
	for _, c := range choices {
		old, ok := v.tasks.get(&Task{ID: asID(c.GetTask())})
		if !ok {
			return refuse(KindTask, c.GetTask(), "does not exist")
		}
		if old.DecidedIndex != c.GetVersion() {
			return outdated(KindTask, c.GetTask(), old.DecidedIndex, c.GetVersion())
		}
		if c.GetForget() {
			v.dropTask(old)
			continue
		}
		node, bad := v.node(c.GetNode())
		if bad != nil {
			return bad
		}
		if bad := v.decideOf(old, c.GetDesired(), node, c.Reason); bad != nil {
			return bad
		}
	}
	return nil
}

func (v *mover) make(m *logv1.Make) *Conflict {
	node, bad := v.node(m.GetNode())
	if bad != nil {
		return bad
	}
	t := &Task{
		ID: asID(m.GetTask()), Service: asID(v.moves.GetService()), Node: node,
		Revision: m.GetRevision(), Slot: m.GetSlot(), Desired: taskstate.Running, Reason: m.GetReason(),
	}
	return v.addTask(t)
}

// node returns the node that a move counts, zero for 0.
func (v *mover) node(number uint32) (id.ID, *Conflict) {
	if number == 0 {
		return id.ID{}, nil
	}
	if uint64(number) > uint64(len(v.nodes)) {
		return id.ID{}, refuse(KindNode, nil, "is counted %d of %d", number, len(v.nodes))
	}
	g := &v.nodes[number-1]
	if !g.seen {
		said := v.moves.GetNodes()[number-1]
		*g = ground{seen: true, node: asID(said.GetNode())}
		g.conflict = v.expect(&logv1.Expect{Kind: KindNode, Key: said.GetNode(), Version: said.GetVersion()})
		if g.conflict == nil {
			g.conflict = v.placeable(g.node)
		}
	}
	return g.node, g.conflict
}

// reported joins what nodes observed of their tasks.
func (s *state) reported(r *logv1.Reports) {
	node := asID(r.GetNode())
	for _, seen := range r.GetSeen() {
		st := seen.GetStatus()
		if st == nil {
			st = &modelv1.TaskStatus{State: seen.GetState(), AgentAt: r.GetAt() + seen.GetAgentAt(), ExitCode: seen.ExitCode}
		}
		s.observed(asID(seen.GetTask()), node, st)
	}
}

// unknownMoves reports whether moves hold a field that this version does not know.
func unknownMoves(m *logv1.Moves) bool {
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return true
	}
	for _, g := range m.GetNodes() {
		if len(g.ProtoReflect().GetUnknown()) > 0 {
			return true
		}
	}
	for _, v := range m.GetMoves() {
		if len(v.ProtoReflect().GetUnknown()) > 0 || len(v.GetMake().ProtoReflect().GetUnknown()) > 0 {
			return true
		}
		for _, c := range v.GetChoices() {
			if len(c.ProtoReflect().GetUnknown()) > 0 {
				return true
			}
		}
	}
	return false
}
