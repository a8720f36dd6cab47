package worker

import (
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/taskstate"
)

// Meters is what a Worker counted.
type Meters struct {
	// Tasks is how many are assigned, by the state last observed.
	Tasks map[taskstate.State]int
	// Commits is how long commits of the journal took that wrote something.
	Commits meter.Reading
}

// Meters returns what was counted.
func (w *Worker) Meters() Meters {
	m := Meters{Tasks: map[taskstate.State]int{}, Commits: w.journal.took.Read()}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.tasks {
		m.Tasks[max(a.status.GetState(), taskstate.Assigned)]++
	}
	return m
}
