package consensus

import (
	"time"

	"github.com/skep-project/skep/internal/id"
)

// History returns the history that this member's log belongs to (R1).
func (r *Runner) History() id.ID { return r.cfg.History }

// A Timing is the clock of a group: one tick of raft, and the shortest silence
// before an election.
type Timing struct{ Tick, Election time.Duration }

// Timing returns the clock in force.
func (r *Runner) Timing() Timing {
	return Timing{Tick: r.cfg.Tick, Election: r.cfg.Tick * time.Duration(r.cfg.ElectionTicks)}
}
