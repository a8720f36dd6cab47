package tally

import (
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Reading is what a manager's counters say.
type Reading struct {
	// Proposals is what became of the transactions this manager proposed, by
	// outcome, and Propose how long those applied took until they were. A loop
	// proposes again what conflicted.
	Proposals map[string]uint64
	Propose   meter.Reading
	// Transactions is what apply made of the log's transactions, by outcome, and
	// Apply how long each entry took.
	Transactions map[string]uint64
	Apply        meter.Reading
	// Sessions is how many are open here. The rest counts what went over them.
	Sessions                              int64
	Beats, Reports, Messages, Assignments uint64
	// Confirmed is from a beat's arrival here to the word that the leader has it.
	Confirmed meter.Reading
	// Issued is certificates by role, Refused requests by call.
	Issued, Refused map[string]uint64
	// Rounds is how long rounds of reconcile took, Planned how many services they
	// planned, Dirty how many the last one did, Dropped how many units conflicted.
	Rounds           meter.Reading
	Planned, Dropped uint64
	Dirty            int64
}

// Read returns what the counters say.
func (t *Tally) Read() Reading {
	s := &t.sessions
	r := Reading{
		Proposals: byOutcome(&t.proposals), Propose: t.propose.Read(),
		Transactions: byOutcome(&t.transactions), Apply: t.apply.Read(),
		Sessions: s.open.value(), Beats: s.beats.Value(), Reports: s.reports.Value(),
		Messages: s.messages.Value(), Assignments: s.assignments.Value(), Confirmed: s.confirmed.Read(),
		Issued: map[string]uint64{
			"worker":  t.issued[modelv1.Role_ROLE_WORKER].Value(),
			"manager": t.issued[modelv1.Role_ROLE_MANAGER].Value(),
		},
		Refused: map[string]uint64{"enroll": t.refused[enroll].Value(), "renew": t.refused[renew].Value()},
		Rounds:  t.rounds.Read(), Planned: t.planned.Value(), Dropped: t.dropped.Value(), Dirty: t.lastRound.value(),
	}
	return r
}

func byOutcome(counters *[outcomes]meter.Counter) map[string]uint64 {
	out := make(map[string]uint64, outcomes)
	for i := range counters {
		out[outcomeNames[i]] = counters[i].Value()
	}
	return out
}

// A Census is how many objects of which kind and state there are.
type Census struct {
	// Objects is by table.
	Objects map[string]int
	// Tasks is by observed state, or "unknown" for those that were not known to
	// have ended when their node was lost; Nodes by state; Availability likewise.
	Tasks, Nodes, Availability map[string]int
	// Soonest is when the first of all nodes' certificates ends; zero without one.
	Soonest time.Time
	// Certificates is the nodes' current ones by how they are at a time: "good",
	// "late" (not renewed when it was to be) or "expired".
	Certificates map[string]int
}

// Count walks the state: up to twenty milliseconds for each hundred thousand tasks.
// now is this host's clock, which certificates are judged by.
func Count(snap *store.Snapshot, now time.Time) Census {
	n := snap.Sizes()
	c := Census{
		Objects: map[string]int{
			"nodes": n.Nodes, "members": n.Members, "services": n.Services, "revisions": n.Revisions,
			"tasks": n.Tasks, "claims": n.Claims, "answered_requests": n.Answered,
		},
		Tasks: map[string]int{}, Nodes: map[string]int{}, Availability: map[string]int{},
		Certificates: map[string]int{"good": 0, "late": 0, "expired": 0},
	}
	for _, state := range nodeStates {
		c.Nodes[state] = 0
	}
	for _, a := range availabilities {
		c.Availability[a] = 0
	}
	lost := c.nodes(snap, now)
	var states [1024 / 32]int // states are multiples of 32
	unknown := 0
	for t := range snap.Tasks() {
		if len(lost) > 0 && !t.Terminal() && lost[string(t.Node[:])] {
			unknown++
			continue
		}
		states[uint(t.Observed)/32%uint(len(states))]++
	}
	c.Tasks["unknown"] = unknown
	for value := range modelv1.TaskState_name {
		if s := taskstate.State(value); s != modelv1.TaskState_TASK_STATE_REMOVE { // desired only
			c.Tasks[taskstate.Name(s)] = states[s/32]
		}
	}
	return c
}

var nodeStates = map[modelv1.NodeState]string{
	modelv1.NodeState_NODE_STATE_UNKNOWN: "unknown",
	modelv1.NodeState_NODE_STATE_DOWN:    "down",
	modelv1.NodeState_NODE_STATE_READY:   "ready",
}

var availabilities = map[modelv1.Availability]string{
	modelv1.Availability_AVAILABILITY_ACTIVE: "active",
	modelv1.Availability_AVAILABILITY_PAUSE:  "pause",
	modelv1.Availability_AVAILABILITY_DRAIN:  "drain",
}

// nodes counts the nodes and returns the ids of those that are lost.
func (c *Census) nodes(snap *store.Snapshot, now time.Time) map[string]bool {
	lost := map[string]bool{}
	for n := range snap.Nodes() {
		state := nodeStates[n.GetStatus().GetState()]
		if state == "" {
			state = "unknown" // never heard
		}
		c.Nodes[state]++
		if a := availabilities[n.GetSpec().GetAvailability()]; a != "" {
			c.Availability[a]++
		} else {
			c.Availability["active"]++
		}
		if n.GetStatus().GetLostSince() != 0 {
			lost[string(n.GetId())] = true
		}
		c.certificate(n.GetCurrent(), now)
	}
	return lost
}

// certificate counts a node's current certificate; nil is none.
func (c *Census) certificate(cert *modelv1.Certificate, now time.Time) {
	if cert.GetNotAfter() == 0 {
		return
	}
	end := time.Unix(0, cert.GetNotAfter())
	if c.Soonest.IsZero() || end.Before(c.Soonest) {
		c.Soonest = end
	}
	_, due := ca.RenewWindow(time.Unix(0, cert.GetIssuedAt()), end)
	switch {
	case now.After(end):
		c.Certificates["expired"]++
	case now.After(due):
		c.Certificates["late"]++
	default:
		c.Certificates["good"]++
	}
}
