package metrics

import (
	"fmt"
	"time"
)

// stuckAfter is for how long the step loop of consensus may stand still before
// the process counts as dead: it is due twenty times a second.
const stuckAfter = 10 * time.Second

// A Condition is what a node knows of its own well-being.
type Condition struct {
	// State is as in Facts, Fault what is wrong with the node or its manager side;
	// empty if nothing is.
	State, Fault string
	// Session is true while a manager serves this node's session.
	Session bool
	// Member is true if the node is one of the managers, or is to be.
	Member bool
	// The rest is of the manager side, while it runs. Leader is true if one is
	// known; Unwritable says why the log cannot be written; Ticked is when
	// consensus was last given its time, zero before it starts.
	Running, Leader, InContact bool
	Unwritable                 string
	Ticked                     time.Time
}

// A Check is one thing that must be so.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Why says in words what is not so.
	Why string `json:"why,omitempty"`
}

func check(name string, ok bool, why string) Check {
	if ok {
		why = ""
	}
	return Check{Name: name, OK: ok, Why: why}
}

// alive is what nothing but a restart of the daemon would mend.
func (c Condition) alive(now time.Time) []Check {
	if c.Ticked.IsZero() {
		return []Check{check("answers", true, "")}
	}
	still := now.Sub(c.Ticked)
	return []Check{
		check("answers", true, ""),
		check("consensus", still < stuckAfter, fmt.Sprintf("the step loop of consensus has stood still for %v", still.Round(time.Second))),
	}
}

// ready is what must be so that the node does its part in the swarm.
func (c Condition) ready() []Check {
	out := []Check{
		check("swarm", c.State != "inactive", `this node is not part of a swarm: "ctl swarm init" or "ctl swarm join"`),
		check("node", c.Fault == "" && c.State != "error", or(c.Fault, "the node cannot start, see its log")),
		check("session", c.Session, "no manager serves this node's session; its tasks run on"),
	}
	if c.Member {
		out = append(out, check("quorum", c.Running && c.InContact, c.noQuorum()))
	}
	return out
}

func (c Condition) noQuorum() string {
	switch {
	case !c.Running:
		return "the manager side is starting or cannot start"
	case c.Unwritable != "":
		return "this manager left the quorum: " + c.Unwritable
	case !c.Leader:
		return "this manager knows no leader: too few managers answer each other"
	}
	return "this manager does not hear the quorum"
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
