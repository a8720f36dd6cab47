// Package metrics tells a monitoring system how this node is: its figures, whether
// it lives, and whether it is ready.
//
// It owns the names, labels and units of figures, the pages they are on and the
// address those are served at. What is counted, the rooms count themselves
// (internal/meter); what is wrong with a node, the node knows. It is joined to
// them by two functions and asks for nothing until somebody asks it.
//
// Invariants: no figure has a label that grows with tasks, services or nodes; no
// token, key or environment is ever in one; a look costs no disk and no peer.
// Every figure is in docs/metrics.md.
package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager"
)

// Facts is one look at a node's counters. What is nil is not there now: the
// manager side of a worker, the agent of a node in no swarm.
type Facts struct {
	// State is the node's as "ctl info" shows it: inactive, pending, active, error,
	// locked.
	State string
	// NotAfter and RenewAt are of the node's certificate; zero without one.
	NotAfter, RenewAt time.Time
	RPC               rpc.Meters
	Agent             *agent.Meters
	Runtime           *containerd.Meters
	Manager           *manager.Meters
}

// newRegistry returns a registry that asks look at each scrape.
func newRegistry(look func() Facts) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{look},
	)
	return r
}

// collector gives prometheus the figures of a look.
type collector struct{ look func() Facts }

// Describe says which figures there may be.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range figures {
		out <- f.desc
	}
}

// Collect gives what there is now.
func (c collector) Collect(out chan<- prometheus.Metric) {
	facts := c.look()
	for _, f := range figures {
		f.tell(&facts, out)
	}
}

// A figure is one name, and how it is read from a look.
type figure struct {
	desc *prometheus.Desc
	tell func(*Facts, chan<- prometheus.Metric)
}

// figures is all there are.
var figures = join(nodeFigures, rpcFigures, agentFigures, raftFigures, clusterFigures, officeFigures)

func join(lists ...[]figure) []figure {
	var out []figure
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// say puts out one value with its labels' values.
type say func(value float64, labels ...string)

// values makes a figure of kind with labels, of what read says.
func values(kind prometheus.ValueType, name, help string, labels []string, read func(*Facts, say)) figure {
	desc := prometheus.NewDesc("skep_"+name, help, labels, nil)
	return figure{desc, func(f *Facts, out chan<- prometheus.Metric) {
		read(f, func(value float64, with ...string) {
			out <- prometheus.MustNewConstMetric(desc, kind, value, with...)
		})
	}}
}

func gauge(name, help string, read func(*Facts, say)) figure {
	return values(prometheus.GaugeValue, name, help, nil, read)
}

func counter(name, help string, read func(*Facts, say)) figure {
	return values(prometheus.CounterValue, name, help, nil, read)
}

// histogram makes a figure without labels; read returns nil if there is none now.
func histogram(name, help string, read func(*Facts) *meter.Reading) figure {
	desc := prometheus.NewDesc("skep_"+name, help, nil, nil)
	return figure{desc, func(f *Facts, out chan<- prometheus.Metric) {
		if r := read(f); r != nil {
			out <- prometheus.MustNewConstHistogram(desc, r.Count, r.Sum, r.Upto)
		}
	}}
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// moment is t in Unix seconds.
func moment(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }

// states are the states of a node, as rows of skep_node_state.
var states = []string{"inactive", "pending", "active", "error", "locked"}

var nodeFigures = []figure{
	values(prometheus.GaugeValue, "build_info", "Which version runs; always 1.", []string{"version", "goversion"}, func(_ *Facts, say say) {
		say(1, version.Version, runtime.Version())
	}),
	values(prometheus.GaugeValue, "node_state", "1 for the state the node is in.", []string{"state"}, func(f *Facts, say say) {
		for _, s := range states {
			say(yes(s == f.State), s)
		}
	}),
	gauge("node_is_manager", "1 while the manager side runs.", func(f *Facts, say say) { say(yes(f.Manager != nil)) }),
	gauge("node_certificate_expiry_timestamp_seconds", "When the node's certificate ends.", func(f *Facts, say say) {
		if !f.NotAfter.IsZero() {
			say(moment(f.NotAfter))
		}
	}),
	gauge("node_certificate_renewal_timestamp_seconds", "When the node asks for its next certificate.", func(f *Facts, say say) {
		if !f.RenewAt.IsZero() {
			say(moment(f.RenewAt))
		}
	}),
}
