package events

import (
	"fmt"
	"strconv"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	stateReady = modelv1.NodeState_NODE_STATE_READY
	stateDown  = modelv1.NodeState_NODE_STATE_DOWN
)

// node tells what became of a node's record.
func (s *step) node(x id.ID, old, n *modelv1.Node) {
	switch {
	case old == nil && n == nil:
		return
	case old == nil:
		attributes := map[string]string{"role": roleName(n.GetSpec().GetRole())}
		if from := n.GetJoinedFrom(); from != "" {
			attributes["address"] = from
		}
		s.add(s.nodeEntry(x), "create", "", attributes)
	case n == nil:
		s.add(s.nodeEntry(x), "remove", "", map[string]string{"state": nodeState(old)})
		return
	}
	if old != nil {
		s.nodeEdit(x, old, n)
	}
	s.nodeTurn(x, old, n)
	s.nodeTrust(x, old, n)
}

// nodeTrust tells that a node's certificates were revoked, and that it waits for an
// operator to allow it another.
func (s *step) nodeTrust(x id.ID, old, n *modelv1.Node) {
	if n.GetRevoked() > old.GetRevoked() {
		s.add(s.nodeEntry(x), "revoke", "", map[string]string{"generation": decimal(n.GetRevoked())})
	}
	is, was := n.GetWait(), old.GetWait()
	switch {
	case is == nil || is.GetVerdict() == was.GetVerdict() && string(is.GetKey()) == string(was.GetKey()):
	case is.GetVerdict() == modelv1.RenewalWait_VERDICT_UNSPECIFIED:
		s.add(s.nodeEntry(x), "pending", is.GetReason(), map[string]string{"address": is.GetFrom()})
	case is.GetVerdict() == modelv1.RenewalWait_VERDICT_ACCEPTED:
		s.add(s.nodeEntry(x), "accept", is.GetReason(), nil)
	case is.GetVerdict() == modelv1.RenewalWait_VERDICT_REJECTED:
		s.add(s.nodeEntry(x), "reject", is.GetReason(), nil)
	}
}

// nodeTurn tells of a node's life.
func (s *step) nodeTurn(x id.ID, old, n *modelv1.Node) {
	was, is := old.GetStatus(), n.GetStatus()
	attributes := make(map[string]string)
	turned(attributes, "state", nodeState(old), nodeState(n))
	if len(attributes) > 0 && is != nil {
		s.add(s.nodeEntry(x), nodeState(n), is.GetMessage(), attributes)
	}
	s.nodeClock(x, was, is)
	switch twin, before := len(is.GetTwinBoot()) > 0, len(was.GetTwinBoot()) > 0; {
	case twin && !before:
		s.add(s.nodeEntry(x), "clone", is.GetMessage(), map[string]string{"address": is.GetObservedAddress(), "other": is.GetTwinAddress()})
	case before && !twin && is != nil:
		s.add(s.nodeEntry(x), "clone", "one machine alone has been heard of late", nil)
	}
}

// nodeClock tells that a node's clock is off the swarm's, or is not any more.
func (s *step) nodeClock(x id.ID, was, is *modelv1.NodeStatus) {
	switch off := is.GetClockAhead(); {
	case off != 0 && off != was.GetClockAhead():
		s.add(s.nodeEntry(x), "clock", ClockWords(is), map[string]string{"ahead": time.Duration(off).String()})
	case off == 0 && was.GetClockAhead() != 0 && is != nil:
		s.add(s.nodeEntry(x), "clock", "its clock is that of the swarm again", map[string]string{"ahead": "0s"})
	}
}

// ClockWords says how far a node's clock is off, "" if it is not.
func ClockWords(s *modelv1.NodeStatus) string {
	by, err := id.FromBytes(s.GetClockBy())
	if s.GetClockAhead() == 0 || err != nil {
		return ""
	}
	return fmt.Sprintf("its clock is %s the swarm's, by what manager %s says", rpc.OffBy(time.Duration(s.GetClockAhead())), by.Short())
}

// nodeEdit tells what an operator changed of a node, or a new version or address
// of its daemon.
func (s *step) nodeEdit(x id.ID, old, n *modelv1.Node) {
	attributes := make(map[string]string)
	was, is := old.GetSpec(), n.GetSpec()
	turned(attributes, "name", was.GetName(), is.GetName())
	turned(attributes, "role", roleName(was.GetRole()), roleName(is.GetRole()))
	turned(attributes, "availability", availability(was), availability(is))
	labelled(attributes, was.GetLabels(), is.GetLabels())
	if d := old.GetDescription(); d.GetVersion() != "" { // it has said what it is before
		turned(attributes, "version", d.GetVersion(), n.GetDescription().GetVersion())
		turned(attributes, "address", d.GetAddress(), n.GetDescription().GetAddress())
		turned(attributes, "hostname", d.GetHostname(), n.GetDescription().GetHostname())
	}
	if len(attributes) > 0 {
		reason := ""
		if n.GetRoleReason() != old.GetRoleReason() {
			reason = n.GetRoleReason()
		}
		s.add(s.nodeEntry(x), "update", reason, attributes)
	}
}

// member tells who became a manager and who is none any more, and why if nobody
// asked for it. The first manager of a swarm was never anything else.
func (s *step) member(c store.Change) {
	old, m := memberOf(s.before, c), memberOf(s.after, c)
	attributes := map[string]string{"address": m.GetAddress()}
	switch {
	case m.GetVoter() && !old.GetVoter():
		if s.before.Node(c.Node) != nil {
			s.add(s.nodeEntry(c.Node), "promote", "", attributes)
		}
	case m == nil && old != nil:
		s.add(s.nodeEntry(c.Node), "demote", s.after.Node(c.Node).GetRoleReason(), map[string]string{"address": old.GetAddress()})
	case old != nil && old.GetAddress() != m.GetAddress():
		delete(attributes, "address")
		turned(attributes, "manager.address", old.GetAddress(), m.GetAddress())
		s.add(s.nodeEntry(c.Node), "update", "", attributes)
	}
}

func memberOf(snap *store.Snapshot, c store.Change) *modelv1.Member {
	raftID, ok := store.ParseMemberKey(c.Key)
	if !ok {
		return nil
	}
	return snap.Member(raftID)
}

// nodeState is a node's state as people read it.
func nodeState(n *modelv1.Node) string {
	switch n.GetStatus().GetState() {
	case stateReady:
		return "ready"
	case stateDown:
		return "down"
	}
	return "unknown"
}

func roleName(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}

func availability(spec *modelv1.NodeSpec) string {
	if a := spec.GetAvailability(); a != modelv1.Availability_AVAILABILITY_UNSPECIFIED {
		return word(a.String(), "AVAILABILITY_")
	}
	return "active"
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
