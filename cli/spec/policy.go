package spec

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What a policy holds where the flags say nothing: Swarm's defaults. A policy
// that no flag names is left to the manager.
var (
	defaultUpdate = &modelv1.UpdateConfig{
		Parallelism:   1,
		FailureAction: modelv1.FailureAction_FAILURE_ACTION_PAUSE,
		Monitor:       int64(5 * time.Second),
		Order:         modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST,
	}
	defaultRestart = &modelv1.RestartPolicy{
		Condition: modelv1.RestartCondition_RESTART_CONDITION_ANY,
		Delay:     int64(5 * time.Second),
	}
)

func (p *parser) policies(svc *modelv1.ServiceSpec) {
	p.restart(svc)
	svc.Update = p.updateConfig("update", svc.Update)
	svc.Rollback = p.updateConfig("rollback", svc.Rollback)
	p.check(svc.GetRollback().GetFailureAction() != modelv1.FailureAction_FAILURE_ACTION_ROLLBACK,
		"--rollback-failure-action rollback: a rollback is not rolled back; want pause or continue")
}

func (p *parser) restart(svc *modelv1.ServiceSpec) {
	if !p.any("restart-condition", "restart-delay", "restart-max-attempts", "restart-window") {
		return
	}
	if svc.Restart == nil {
		svc.Restart = proto.CloneOf(defaultRestart)
	}
	r := svc.Restart
	if p.f.IsSet("restart-condition") {
		r.Condition = word(p, "restart-condition", map[string]modelv1.RestartCondition{
			"none":       modelv1.RestartCondition_RESTART_CONDITION_NONE,
			"on-failure": modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE,
			"any":        modelv1.RestartCondition_RESTART_CONDITION_ANY,
		}, "none, on-failure or any")
	}
	if p.f.IsSet("restart-delay") {
		r.Delay = p.duration("restart-delay")
	}
	if p.f.IsSet("restart-max-attempts") {
		r.MaxAttempts = p.count("restart-max-attempts")
	}
	if p.f.IsSet("restart-window") {
		r.Window = p.duration("restart-window")
	}
}

// updateConfig reads the flags that begin with prefix over c.
func (p *parser) updateConfig(prefix string, c *modelv1.UpdateConfig) *modelv1.UpdateConfig {
	flag := func(name string) string { return prefix + "-" + name }
	if !p.any(flag("parallelism"), flag("delay"), flag("failure-action"), flag("monitor"),
		flag("max-failure-ratio"), flag("order")) {
		return c
	}
	if c == nil {
		c = proto.CloneOf(defaultUpdate)
	}
	if p.f.IsSet(flag("parallelism")) {
		c.Parallelism = p.count(flag("parallelism"))
	}
	if p.f.IsSet(flag("delay")) {
		c.Delay = p.duration(flag("delay"))
	}
	if p.f.IsSet(flag("monitor")) {
		c.Monitor = p.duration(flag("monitor"))
	}
	if p.f.IsSet(flag("max-failure-ratio")) {
		c.MaxFailureRatio = p.ratio(flag("max-failure-ratio"))
	}
	if p.f.IsSet(flag("failure-action")) {
		c.FailureAction = word(p, flag("failure-action"), map[string]modelv1.FailureAction{
			"pause":    modelv1.FailureAction_FAILURE_ACTION_PAUSE,
			"continue": modelv1.FailureAction_FAILURE_ACTION_CONTINUE,
			"rollback": modelv1.FailureAction_FAILURE_ACTION_ROLLBACK,
		}, "pause, continue or rollback")
	}
	if p.f.IsSet(flag("order")) {
		c.Order = word(p, flag("order"), map[string]modelv1.UpdateOrder{
			"stop-first":  modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST,
			"start-first": modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST,
		}, "stop-first or start-first")
	}
	return c
}

// word reads a flag that takes one of a few words.
func word[T any](p *parser, name string, of map[string]T, want string) T {
	v, ok := of[p.f.String(name)]
	p.check(ok, fmt.Sprintf("--%s %q: want %s", name, p.f.String(name), want))
	return v
}
