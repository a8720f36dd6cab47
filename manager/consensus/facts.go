package consensus

import (
	"time"

	"github.com/skep-project/skep/internal/id"
)

// History returns the history that this member's log belongs to (R1).
func (r *Runner) History() id.ID { return r.cfg.History }

// A Timing is the clock of a group: one tick of raft, how often a leader is heard of at
// least, and the shortest silence before an election.
type Timing struct{ Tick, Heartbeat, Election time.Duration }

// Timing returns the clock in force.
func (r *Runner) Timing() Timing {
	return Timing{Tick: r.cfg.Tick, Heartbeat: r.cfg.Tick * heartbeatTicks, Election: r.cfg.Tick * time.Duration(r.cfg.ElectionTicks)}
}
