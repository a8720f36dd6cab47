package manager

import (
	"slices"
	"time"

	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/tally"
	"github.com/skep-project/skep/manager/witness"
)

// Meters is what a manager counted since it was opened, and what its replica
// holds.
type Meters struct {
	Raft   consensus.Meters
	Tally  tally.Reading
	Census tally.Census
	// Reachable is how many of the other members answer, as far as this one can
	// tell; Lag how many entries the slowest of them lacks, on the leader only.
	Reachable int
	Lag       uint64
	// External is what external CAs were asked for here.
	External external.Meters
	// Audit is the trail this replica holds, and what its witness saw.
	Audit AuditMeters
}

// AuditMeters is the audit trail in numbers.
type AuditMeters struct {
	// Last is the number of the newest record; Records and Bytes what is kept.
	Last           uint64
	Records, Bytes int
	Witness        witness.Meters
}

// counted is the machine, with what it applies counted.
type counted struct {
	machine
	tally *tally.Tally
}

// Apply changes the state by one entry.
func (c counted) Apply(index uint64, clock int64, txs [][]byte) []error {
	begin := time.Now()
	errs := c.machine.Apply(index, clock, txs)
	c.tally.Apply(time.Since(begin), len(txs), errs)
	return errs
}

// Meters returns what was counted. It waits for no disk and no peer.
func (m *Manager) Meters() Meters {
	out := Meters{Raft: m.raft.Meters(), Tally: m.tally.Read(), Census: tally.Count(m.store.Snapshot(), time.Now())}
	out.External = m.outside.Meters()
	trail := m.store.Snapshot().Trail()
	out.Audit = AuditMeters{Last: trail.Last(), Records: trail.Len(), Bytes: trail.Bytes(), Witness: m.witness.Meters()}
	s, o := out.Raft.Status, office{m}
	for _, v := range slices.Concat(s.Voters, s.Learners) {
		if v != s.RaftID && o.answers(v) {
			out.Reachable++
		}
	}
	for id, p := range s.Progress {
		if id != s.RaftID && p.Match < s.Committed {
			out.Lag = max(out.Lag, s.Committed-p.Match)
		}
	}
	return out
}

// Pulse returns what consensus counted, without a look at the state: what a
// health check needs.
func (m *Manager) Pulse() consensus.Meters { return m.raft.Meters() }
