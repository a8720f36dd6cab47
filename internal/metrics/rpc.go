package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var ofMethod = []string{"service", "method"}

var rpcFigures = []figure{
	values(prometheus.CounterValue, "rpc_calls_total", "Calls and streams that ended, by the code they ended with.", []string{"service", "method", "code"},
		func(f *Facts, say say) {
			for _, m := range f.RPC.Methods {
				service, method := split(m.Method)
				for code, n := range m.Codes {
					say(float64(n), service, method, code)
				}
			}
		}),
	rpcDurations(),
	values(prometheus.GaugeValue, "rpc_in_flight", "Calls and streams being served.", []string{"kind"}, func(f *Facts, say say) {
		say(float64(f.RPC.Calls), "call")
		say(float64(f.RPC.Streams), "stream")
	}),
}

func rpcDurations() figure {
	desc := prometheus.NewDesc("skep_rpc_call_duration_seconds", "How long calls took to answer, refusals included.", ofMethod, nil)
	return figure{desc, func(f *Facts, out chan<- prometheus.Metric) {
		for _, m := range f.RPC.Methods {
			if m.Took.Count == 0 {
				continue // a stream, or a first call that is under way
			}
			service, method := split(m.Method)
			out <- prometheus.MustNewConstHistogram(desc, m.Took.Count, m.Took.Sum, m.Took.Upto, service, method)
		}
	}}
}

// split takes a full name of a method apart: "/skep.ca.v1.Authority/Renew" is
// Renew of skep.ca.v1.Authority.
func split(full string) (service, method string) {
	service, method, _ = strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return service, method
}
