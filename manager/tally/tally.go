// Package tally counts what goes on in a manager, from outside the rooms that do
// it: it stands between them and what they call, and looks at the state.
//
// It owns the counters of proposals, of what apply made of them, of sessions, of
// certificates and of reconcile's rounds. What consensus counts of its log is
// consensus's own; names for all of it are internal/metrics'.
//
// Invariants: what passes through is passed on as it came, error and order
// included; counting waits for nobody. Nothing is counted per task, service or
// node, so a bigger cluster has no more counters.
package tally

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/meter"
)

// A Tally is the counters of one manager. The zero value is ready.
type Tally struct {
	proposals [outcomes]meter.Counter
	propose   meter.Durations

	transactions [outcomes]meter.Counter
	apply        meter.Durations

	sessions sessions
	issued   [roles]meter.Counter
	refused  [calls]meter.Counter

	rounds    meter.Durations
	planned   meter.Counter
	dropped   meter.Counter
	lastRound gauge
}

// An Outcome is what became of a transaction.
type Outcome int

// The outcomes. Refused was never in the log; Unknown may be.
const (
	Applied Outcome = iota
	Conflicted
	Answered // before, under the same request id
	Refused
	Unknown
	outcomes
)

var outcomeNames = [outcomes]string{"applied", "conflict", "answered", "refused", "unknown"}

// Of returns what an error of a proposal, or of one transaction of an entry,
// says became of it.
func Of(err error) Outcome {
	switch {
	case err == nil:
		return Applied
	case errdefs.IsConflict(err):
		return Conflicted
	case errdefs.IsAlreadyExists(err):
		return Answered
	case errdefs.IsUnknown(err):
		return Unknown
	}
	return Refused
}

// A proposer puts transactions into the log.
type proposer interface {
	Propose(ctx context.Context, tx []byte) (index uint64, err error)
}

// Proposer is p, counted.
func (t *Tally) Proposer(p proposer) Proposer { return Proposer{t, p} }

// A Proposer counts what it passes on.
type Proposer struct {
	tally *Tally
	next  proposer
}

// Propose passes tx on.
func (p Proposer) Propose(ctx context.Context, tx []byte) (uint64, error) {
	begin := time.Now()
	index, err := p.next.Propose(ctx, tx)
	p.tally.proposals[Of(err)].Inc()
	if err == nil {
		p.tally.propose.Since(begin)
	}
	return index, err
}

// Apply counts one entry that was applied: how long it took, and what became of
// each of its n transactions; errs is as Machine.Apply returns it.
func (t *Tally) Apply(took time.Duration, n int, errs []error) {
	t.apply.Observe(took)
	failed := 0
	for _, err := range errs {
		if err != nil {
			t.transactions[Of(err)].Inc()
			failed++
		}
	}
	t.transactions[Applied].Add(n - failed)
}

// Round counts one round of reconcile: how many services it planned, how many
// units the log dropped, and how long both took. A round that planned nothing
// does not count.
func (t *Tally) Round(services, dropped int, took time.Duration) {
	t.lastRound.set(services)
	if services == 0 {
		return
	}
	t.planned.Add(services)
	t.dropped.Add(dropped)
	t.rounds.Observe(took)
}
