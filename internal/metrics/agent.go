package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/taskstate"
)

var agentFigures = []figure{
	gauge("agent_session_up", "1 while a manager serves this node's session.", ofAgent(func(m *agent.Meters) float64 {
		return yes(m.Session.Manager != nil)
	})),
	gauge("agent_session_confirmed", "1 while the leader counts this node's beats in time.", ofAgent(func(m *agent.Meters) float64 {
		return yes(m.Session.Confirmed)
	})),
	gauge("agent_reports_waiting", "States of tasks that no commit has acknowledged yet.", ofAgent(func(m *agent.Meters) float64 {
		return float64(m.Session.Waiting)
	})),
	gauge("agent_obeyed_index", "Index of the newest orders this node has obeyed.", ofAgent(func(m *agent.Meters) float64 {
		return float64(m.Index)
	})),
	values(prometheus.GaugeValue, "agent_tasks", "Tasks assigned to this node, by the state last observed.", []string{"state"}, func(f *Facts, say say) {
		if f.Agent == nil {
			return
		}
		for _, s := range held {
			say(float64(f.Agent.Worker.Tasks[s]), taskstate.Name(s))
		}
		ended := 0
		for s, n := range f.Agent.Worker.Tasks {
			if taskstate.Terminal(s) {
				ended += n
			}
		}
		say(float64(ended), "ended")
	}),
	histogram("agent_journal_commit_duration_seconds", "How long commits of the agent's journal took.", func(f *Facts) *meter.Reading {
		if f.Agent == nil {
			return nil
		}
		return &f.Agent.Worker.Commits
	}),
	gauge("agent_containerd_up", "1 while containerd answers.", ofRuntime(func(m *containerd.Meters) float64 { return yes(m.Up) })),
	histogram("agent_image_pull_duration_seconds", "How long images took to be pulled and unpacked.", func(f *Facts) *meter.Reading {
		if f.Runtime == nil {
			return nil
		}
		return &f.Runtime.Pulls
	}),
	counter("agent_image_pull_failures_total", "Pulls of images that failed.", ofRuntime(func(m *containerd.Meters) float64 {
		return float64(m.PullsFailed)
	})),
}

// held are the states of tasks that a node has not ended.
var held = []taskstate.State{
	taskstate.Assigned, taskstate.Accepted, taskstate.Preparing, taskstate.Ready, taskstate.Starting, taskstate.Running,
}

func ofAgent(read func(*agent.Meters) float64) func(*Facts, say) {
	return func(f *Facts, say say) {
		if f.Agent != nil {
			say(read(f.Agent))
		}
	}
}

func ofRuntime(read func(*containerd.Meters) float64) func(*Facts, say) {
	return func(f *Facts, say say) {
		if f.Runtime != nil {
			say(read(f.Runtime))
		}
	}
}
