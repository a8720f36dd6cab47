package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/manager"
)

var raftFigures = []figure{
	gauge("raft_term", "Term this manager is in.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Status.Term) })),
	gauge("raft_is_leader", "1 while this manager leads.", ofManager(func(m *manager.Meters) float64 { return yes(m.Raft.Status.Leading) })),
	gauge("raft_has_leader", "1 while this manager knows a leader.", ofManager(func(m *manager.Meters) float64 { return yes(m.Raft.Status.Leader != 0) })),
	gauge("raft_in_contact", "1 while this manager hears the quorum.", ofManager(func(m *manager.Meters) float64 { return yes(m.Raft.Status.InContact) })),
	counter("raft_leader_changes_total", "Times this manager heard of a new leader.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Leaders) })),
	counter("raft_elections_begun_total", "Times this manager asked for votes since its log was read.", ofManager(func(m *manager.Meters) float64 {
		return float64(m.Raft.Status.Elections)
	})),
	gauge("raft_voters", "Managers that vote.", ofManager(func(m *manager.Meters) float64 { return float64(len(m.Raft.Status.Voters)) })),
	gauge("raft_learners", "Managers that follow the log and do not vote yet.", ofManager(func(m *manager.Meters) float64 {
		return float64(len(m.Raft.Status.Learners))
	})),
	gauge("raft_peers_reachable", "Other managers that answer, as far as this one can tell.", ofManager(func(m *manager.Meters) float64 { return float64(m.Reachable) })),
	gauge("raft_peer_lag_entries", "Entries that the slowest other manager lacks; the leader's only.", func(f *Facts, say say) {
		if f.Manager != nil && f.Manager.Raft.Status.Leading {
			say(float64(f.Manager.Lag))
		}
	}),
	gauge("raft_committed_index", "Index of the newest entry known to be committed.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Status.Committed) })),
	gauge("raft_applied_index", "Index of the newest entry applied here.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Status.Applied) })),
	gauge("raft_log_writable", "1 while this manager can write its log.", ofManager(func(m *manager.Meters) float64 { return yes(m.Raft.Status.Failed == nil) })),
	gauge("raft_log_free_bytes", "Free space of the file system that holds the log.", func(f *Facts, say say) {
		if f.Manager != nil && f.Manager.Raft.Free > 0 {
			say(float64(f.Manager.Raft.Free))
		}
	}),
	histogram("raft_fsync_duration_seconds", "How long each write of entries took until it was durable.", readManager(func(m *manager.Meters) *meter.Reading { return &m.Raft.Fsync })),
	histogram("raft_fsync_entries", "Entries made durable by one write.", readManager(func(m *manager.Meters) *meter.Reading { return &m.Raft.Together })),
	gauge("raft_appends_waiting", "Pieces of work that wait to be written to the log.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Appends) })),
	gauge("raft_applies_waiting", "Pieces of work that wait to be applied.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Applies) })),
	gauge("raft_proposals_waiting", "Transactions that wait to be put into an entry.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.Status.Waiting) })),
	values(prometheus.CounterValue, "raft_proposals_total", "Transactions this manager proposed, by what became of them.", []string{"result"},
		each(func(m *manager.Meters) map[string]uint64 { return m.Tally.Proposals })),
	histogram("raft_propose_duration_seconds", "From a proposal until it was applied here.", readManager(func(m *manager.Meters) *meter.Reading { return &m.Tally.Propose })),
	histogram("raft_snapshot_duration_seconds", "How long snapshots took.", readManager(func(m *manager.Meters) *meter.Reading { return &m.Raft.Snapshots })),
	counter("raft_snapshot_failures_total", "Snapshots that could not be taken.", ofManager(func(m *manager.Meters) float64 { return float64(m.Raft.NoSnapshot) })),
	gauge("raft_snapshot_bytes", "Size of the newest snapshot taken here; 0 before the first.", ofManager(func(m *manager.Meters) float64 {
		return float64(m.Raft.SnapshotBytes)
	})),
}

func ofManager(read func(*manager.Meters) float64) func(*Facts, say) {
	return func(f *Facts, say say) {
		if f.Manager != nil {
			say(read(f.Manager))
		}
	}
}

func readManager(read func(*manager.Meters) *meter.Reading) func(*Facts) *meter.Reading {
	return func(f *Facts) *meter.Reading {
		if f.Manager == nil {
			return nil
		}
		return read(f.Manager)
	}
}

// each says a value for each key.
func each[N int | uint64](read func(*manager.Meters) map[string]N) func(*Facts, say) {
	return func(f *Facts, say say) {
		if f.Manager == nil {
			return
		}
		for key, n := range read(f.Manager) {
			say(float64(n), key)
		}
	}
}
