package events

import (
	"strings"
	"unicode/utf8"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The types of events.
const (
	TypeSwarm   = "swarm"
	TypeNode    = "node"
	TypeService = "service"
	TypeTask    = "task"
	// TypeUser is for those only who may list the users.
	TypeUser = "user"
	// TypeToken is for those only who may list the join tokens.
	TypeToken = "token"
)

// The actions that leaders tell of in notes, because no object shows them.
const (
	Leader      = "leader"
	Reachable   = "reachable"
	Unreachable = "unreachable"
	// LossesDeferred is told of the swarm when R3's guard grants most of its nodes
	// one more lease.
	LossesDeferred = "losses-deferred"
)

// How much of the text that users and agents wrote an event holds, in bytes.
const (
	maxAttribute = 256
	maxReason    = 1024
)

// A step is one index on its way to events.
type step struct {
	before, after *store.Snapshot
	index         uint64
	at            int64
	out           []memo
	// lore is the one used last: most tasks of an index are of one service.
	lore *lore
}

// derive returns the events of one index, in the order of its changes.
func derive(before, after *store.Snapshot, changes []store.Change) []memo {
	s := &step{before: before, after: after, index: after.Index(), at: after.LogTime().UnixNano()}
	seen := make(map[id.ID]bool, len(changes)) // of an object that changed twice the sum is told
	for _, c := range changes {
		switch c.Kind {
		case store.KindNote:
			s.note(c.Note)
			continue
		case store.KindMember:
			s.member(c)
			continue
		case store.KindCluster, store.KindNode, store.KindService, store.KindTask, store.KindUser, store.KindToken:
		default:
			continue
		}
		x := c.ID()
		if seen[x] {
			continue
		}
		seen[x] = true
		switch c.Kind {
		case store.KindCluster:
			s.swarm(before.Cluster(), after.Cluster())
		case store.KindNode:
			s.node(x, before.Node(x), after.Node(x))
		case store.KindService:
			s.service(x, before.Service(x), after.Service(x))
		case store.KindTask:
			s.task(c.Was, after.Task(x))
		case store.KindUser:
			s.user(x, before.User(x), after.User(x))
		case store.KindToken:
			s.token(x, before.Token(x), after.Token(x))
		}
	}
	return s.out
}

// add notes an event of the thing that e says.
func (s *step) add(e Entry, action, reason string, attributes map[string]string) {
	for k, v := range attributes {
		attributes[k] = cut(v, maxAttribute)
	}
	e.Event.Action, e.Event.Reason, e.Event.Attributes = action, oneLine(reason), attributes
	s.out = append(s.out, memo{index: s.index, at: s.at, entry: &e})
}

// oneLine is a reason as an event has it.
func oneLine(reason string) string { return cut(strings.Join(strings.Fields(reason), " "), maxReason) }

// cut returns at most n bytes of text, in whole letters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// turned notes what became of an attribute, if anything did.
func turned(attributes map[string]string, key, old, now string) {
	if old != now {
		attributes[key+".old"], attributes[key+".new"] = old, now
	}
}

// labelled notes the labels that changed.
func labelled(attributes map[string]string, old, now map[string]string) {
	for k, v := range old {
		if n, ok := now[k]; !ok || n != v {
			turned(attributes, "label."+cut(k, maxAttribute), v, n)
		}
	}
	for k, v := range now {
		if _, ok := old[k]; !ok {
			turned(attributes, "label."+cut(k, maxAttribute), "", v)
		}
	}
}

// word is an enum's value as people read it: "rollback_paused" is "rollback paused".
func word(value, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value, prefix)), "_", " ")
}

// nodeAt returns the node as it is, or as it was.
func (s *step) nodeAt(x id.ID) *modelv1.Node {
	if n := s.after.Node(x); n != nil {
		return n
	}
	return s.before.Node(x)
}

// nodeEntry is an entry about a node.
func (s *step) nodeEntry(x id.ID) Entry {
	n := s.nodeAt(x)
	return Entry{
		Event:  &controlv1.Event{Type: TypeNode, Id: x.Bytes(), Name: nodeName(n)},
		Labels: n.GetSpec().GetLabels(), Node: x,
	}
}

// nodeName is what people call a node; "" if it has no name yet.
func nodeName(n *modelv1.Node) string {
	if name := n.GetSpec().GetName(); name != "" {
		return name
	}
	return n.GetDescription().GetHostname()
}

// note tells what a leader wrote down.
func (s *step) note(n *logv1.Note) {
	attributes := make(map[string]string, len(n.GetAttributes()))
	for k, v := range n.GetAttributes() {
		attributes[cut(k, maxAttribute)] = v
	}
	e := s.swarmEntry()
	if x, err := id.FromBytes(n.GetNode()); err == nil && !x.IsZero() {
		e = s.nodeEntry(x)
	}
	e.Event.Type = cut(n.GetType(), maxAttribute)
	s.add(e, cut(n.GetAction(), maxAttribute), n.GetReason(), attributes)
}
