package control

import (
	"math"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What a spec holds where it says nothing.
//
// Source: Docker Swarm's defaults.
const (
	defaultReplicas    = 1
	defaultRestart     = 5 * time.Second
	defaultParallelism = 1
	defaultMonitor     = 5 * time.Second
	defaultGrace       = 10 * time.Second
)

// What a spec may hold at most.
const (
	maxReplicas      = 100_000
	maxName          = 63
	maxTemplateBytes = 512 << 10
	// maxWait bounds every duration: more is a mistake in the unit.
	maxWait = 366 * 24 * time.Hour
)

// complete returns copies of spec and template with the defaults filled in, or
// everything that is wrong with them. A template that is absent stays so. What is
// complete already is returned as it was.
func (s *Server) complete(spec *modelv1.ServiceSpec, tpl *modelv1.TaskTemplate) (*modelv1.ServiceSpec, *modelv1.TaskTemplate, error) {
	spec, tpl = proto.CloneOf(spec), proto.CloneOf(tpl)
	var f faults
	spec = f.spec(spec)
	if tpl != nil {
		f.template(tpl, s.cfg.Decisions)
		for _, err := range exec.Impossible(tpl, spec.GetLabels()) {
			f.check(false, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	f.check(spec.GetGlobal() == nil || tpl.GetPlacement().GetMaxReplicasPerNode() == 0,
		"max replicas per node: a global service has one task on a node")
	if err := f.refusal(serviceThing(spec)); err != nil {
		return nil, nil, err
	}
	return spec, tpl, nil
}

func serviceThing(spec *modelv1.ServiceSpec) string {
	if spec.GetName() == "" {
		return "service"
	}
	return "service " + spec.GetName()
}

// spec checks and completes s, which is the caller's own.
func (f *faults) spec(s *modelv1.ServiceSpec) *modelv1.ServiceSpec {
	if s == nil {
		s = &modelv1.ServiceSpec{}
	}
	if s.GetName() != "" {
		f.name("name", s.GetName())
	}
	f.labels("label", s.GetLabels())
	if s.GetMode() == nil {
		s.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: defaultReplicas}}
	}
	f.check(s.GetReplicated().GetReplicas() <= maxReplicas, "replicas %d: at most %d", s.GetReplicated().GetReplicas(), maxReplicas)
	s.Restart = f.restart(s.GetRestart())
	s.Update = f.updateConfig("update", s.GetUpdate())
	s.Rollback = f.updateConfig("rollback", s.GetRollback())
	f.check(s.GetRollback().GetFailureAction() != modelv1.FailureAction_FAILURE_ACTION_ROLLBACK,
		"rollback failure action: a rollback is not rolled back; want pause or continue")
	return s
}

func (f *faults) restart(r *modelv1.RestartPolicy) *modelv1.RestartPolicy {
	if r == nil {
		r = &modelv1.RestartPolicy{Delay: int64(defaultRestart)}
	}
	if r.GetCondition() == modelv1.RestartCondition_RESTART_CONDITION_UNSPECIFIED {
		r.Condition = modelv1.RestartCondition_RESTART_CONDITION_ANY
	}
	_, known := modelv1.RestartCondition_name[int32(r.GetCondition())]
	f.check(known, "restart condition: want none, on-failure or any")
	f.wait("restart delay", r.GetDelay())
	f.wait("restart window", r.GetWindow())
	return r
}

func (f *faults) updateConfig(what string, c *modelv1.UpdateConfig) *modelv1.UpdateConfig {
	if c == nil {
		c = &modelv1.UpdateConfig{Parallelism: defaultParallelism}
	}
	if c.GetMonitor() == 0 {
		c.Monitor = int64(defaultMonitor)
	}
	if c.GetFailureAction() == modelv1.FailureAction_FAILURE_ACTION_UNSPECIFIED {
		c.FailureAction = modelv1.FailureAction_FAILURE_ACTION_PAUSE
	}
	if c.GetOrder() == modelv1.UpdateOrder_UPDATE_ORDER_UNSPECIFIED {
		c.Order = modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST
	}
	_, known := modelv1.FailureAction_name[int32(c.GetFailureAction())]
	f.check(known, "%s failure action: want pause, continue or rollback", what)
	_, known = modelv1.UpdateOrder_name[int32(c.GetOrder())]
	f.check(known, "%s order: want stop-first or start-first", what)
	f.wait(what+" delay", c.GetDelay())
	f.wait(what+" monitor", c.GetMonitor())
	ratio := c.GetMaxFailureRatio()
	f.check(!math.IsNaN(ratio) && ratio >= 0 && ratio <= 1, "%s max failure ratio %v: want 0 to 1", what, ratio)
	f.check(c.GetParallelism() <= maxReplicas, "%s parallelism %d: at most %d", what, c.GetParallelism(), maxReplicas)
	return c
}

// wait checks a duration in nanoseconds.
func (f *faults) wait(what string, nanos int64) {
	d := time.Duration(nanos)
	f.check(d >= 0 && d <= maxWait, "%s %v: want 0 to a year", what, d)
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$`)

// name checks the name of an object.
func (f *faults) name(what, name string) {
	f.check(len(name) <= maxName && namePattern.MatchString(name),
		"%s %q: want 1 to %d letters, digits, - and _, with a letter or digit at both ends", what, name, maxName)
}

// labels checks the keys of labels.
func (f *faults) labels(what string, labels map[string]string) {
	_, empty := labels[""]
	f.check(!empty, "%s: a key is empty", what)
}
