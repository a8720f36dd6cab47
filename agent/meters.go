package agent

import (
	"github.com/skep-project/skep/agent/session"
	"github.com/skep-project/skep/agent/worker"
)

// Meters is what an agent counted since it was started.
type Meters struct {
	// Session says to which manager it is connected.
	Session session.Status
	// Worker is what was counted of tasks and journal.
	Worker worker.Meters
	// Index is the highest obeyed.
	Index uint64
}

// Meters returns what was counted; ok is false while the agent does not run.
func (a *Agent) Meters() (m Meters, ok bool) {
	w, s := a.parts()
	if w == nil || s == nil {
		return Meters{}, false
	}
	_, index := w.Position()
	return Meters{Session: s.Status(), Worker: w.Meters(), Index: index}, true
}
