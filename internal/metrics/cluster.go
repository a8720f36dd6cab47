package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/manager"
)

// clusterFigures is what a manager's replica holds: every manager that keeps up
// says the same.
var clusterFigures = []figure{
	values(prometheus.GaugeValue, "store_objects", "Objects of the replicated state.", []string{"table"},
		each(func(m *manager.Meters) map[string]int { return m.Census.Objects })),
	values(prometheus.CounterValue, "store_transactions_total", "Transactions of the log that were applied here, by what became of them.", []string{"result"},
		each(func(m *manager.Meters) map[string]uint64 {
			return map[string]uint64{
				"applied": m.Tally.Transactions["applied"], "conflict": m.Tally.Transactions["conflict"],
				"answered": m.Tally.Transactions["answered"], "refused": m.Tally.Transactions["refused"],
			}
		})),
	histogram("store_apply_duration_seconds", "How long the state took to change by one entry.", readManager(func(m *manager.Meters) *meter.Reading { return &m.Tally.Apply })),
	values(prometheus.GaugeValue, "cluster_tasks", "Tasks of the swarm by observed state; unknown are those of lost nodes.", []string{"state"},
		each(func(m *manager.Meters) map[string]int { return m.Census.Tasks })),
	values(prometheus.GaugeValue, "cluster_nodes", "Nodes of the swarm by state.", []string{"state"},
		each(func(m *manager.Meters) map[string]int { return m.Census.Nodes })),
	values(prometheus.GaugeValue, "cluster_nodes_availability", "Nodes of the swarm by availability.", []string{"availability"},
		each(func(m *manager.Meters) map[string]int { return m.Census.Availability })),
	values(prometheus.GaugeValue, "cluster_certificates", "Certificates of nodes by how they are: good, late (not renewed when it was to be) or expired.", []string{"state"},
		each(func(m *manager.Meters) map[string]int { return m.Census.Certificates })),
	gauge("cluster_soonest_certificate_expiry_timestamp_seconds", "When the first of all nodes' certificates ends.", func(f *Facts, say say) {
		if f.Manager != nil && !f.Manager.Census.Soonest.IsZero() {
			say(moment(f.Manager.Census.Soonest))
		}
	}),
}

// officeFigures is what a manager does for nodes and, while it leads, for all.
var officeFigures = []figure{
	gauge("dispatch_sessions", "Sessions of nodes open at this manager.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Sessions) })),
	counter("dispatch_heartbeats_total", "Beats that came in over sessions.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Beats) })),
	histogram("dispatch_beat_confirmation_seconds", "From a beat's arrival here to the word that the leader counted it.",
		readManager(func(m *manager.Meters) *meter.Reading { return &m.Tally.Confirmed })),
	counter("dispatch_messages_total", "Messages sent over sessions.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Messages) })),
	counter("dispatch_assignments_total", "Tasks given to or taken from nodes over sessions; a new session gives all of its node's.",
		ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Assignments) })),
	counter("dispatch_reports_total", "States of tasks that nodes reported over sessions, repeats included.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Reports) })),
	histogram("reconcile_round_duration_seconds", "How long rounds took that planned something, from the look to the last commit.",
		readManager(func(m *manager.Meters) *meter.Reading { return &m.Tally.Rounds })),
	gauge("reconcile_dirty_services", "Services that the last round planned.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Dirty) })),
	counter("reconcile_services_planned_total", "Services planned.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Planned) })),
	counter("reconcile_units_dropped_total", "Moves that conflicted and were planned again.", ofManager(func(m *manager.Meters) float64 { return float64(m.Tally.Dropped) })),
	values(prometheus.CounterValue, "ca_certificates_issued_total", "Certificates given out here, by role.", []string{"role"},
		each(func(m *manager.Meters) map[string]uint64 { return m.Tally.Issued })),
	values(prometheus.CounterValue, "ca_requests_refused_total", "Requests for certificates that got none here.", []string{"call"},
		each(func(m *manager.Meters) map[string]uint64 { return m.Tally.Refused })),
	counter("ca_external_signed_total", "Certificates that an external CA signed, as they were asked for here.", ofManager(func(m *manager.Meters) float64 { return float64(m.External.Signed) })),
	counter("ca_external_failures_total", "Calls for a certificate that an external CA did not answer, refused, or answered with another one.",
		ofManager(func(m *manager.Meters) float64 { return float64(m.External.Failed) })),
	counter("audit_records_total", "Number of the newest record of the audit trail.", ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Last) })),
	gauge("audit_kept_records", "Records of the audit trail that are kept.", ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Records) })),
	gauge("audit_kept_bytes", "Bytes that they take.", ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Bytes) })),
	counter("audit_sights_total", "Refusals, and secrets shown, that this manager saw.", ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Witness.Seen) })),
	counter("audit_sights_told_total", "Records that it had written of them; one may stand for many.", ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Witness.Told) })),
	counter("audit_sights_lumped_total", "Refusals that were counted and not told apart, for there were too many kinds.",
		ofManager(func(m *manager.Meters) float64 { return float64(m.Audit.Witness.Lumped) })),
}
