package service

import (
	"strings"
	"time"

	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// object is a service as inspect prints it. The names are Docker's; the set only
// grows.
type object struct {
	ID            string
	Version       version
	CreatedAt     *time.Time `json:",omitempty"`
	UpdatedAt     *time.Time `json:",omitempty"`
	Spec          serviceSpec
	PreviousSpec  *previousSpec `json:",omitempty"`
	UpdateStatus  *updateStatus `json:",omitempty"`
	ServiceStatus serviceStatus
	Revision      revision
	Removing      bool `json:",omitempty"`
}

type version struct{ Index uint64 }

// revision is where the service is between its task templates.
type revision struct{ Current, Previous, Target uint64 }

type serviceStatus struct{ RunningTasks, DesiredTasks uint64 }

type previousSpec struct{ TaskTemplate taskTemplate }

type serviceSpec struct {
	Name           string
	Labels         map[string]string
	TaskTemplate   taskTemplate
	Mode           serviceMode
	UpdateConfig   *updateConfig `json:",omitempty"`
	RollbackConfig *updateConfig `json:",omitempty"`
}

type serviceMode struct {
	Replicated *replicated `json:",omitempty"`
	Global     *struct{}   `json:",omitempty"`
}

type replicated struct{ Replicas uint64 }

type taskTemplate struct {
	ContainerSpec containerSpec
	Resources     resources
	RestartPolicy *restartPolicy `json:",omitempty"`
	Placement     placement
	ForceUpdate   uint64
	Runtime       string
}

type resources struct {
	Limits       *limits       `json:",omitempty"`
	Reservations *reservations `json:",omitempty"`
}

type limits struct {
	NanoCPUs    int64 `json:",omitempty"`
	MemoryBytes int64 `json:",omitempty"`
	Pids        int64 `json:",omitempty"`
}

type reservations struct {
	NanoCPUs    int64 `json:",omitempty"`
	MemoryBytes int64 `json:",omitempty"`
}

type restartPolicy struct {
	Condition   string
	Delay       time.Duration
	MaxAttempts uint64
	Window      time.Duration `json:",omitempty"`
}

type placement struct {
	Constraints []string     `json:",omitempty"`
	Preferences []preference `json:",omitempty"`
	MaxReplicas uint64       `json:",omitempty"`
}

type preference struct{ Spread spread }

type spread struct{ SpreadDescriptor string }

type updateConfig struct {
	Parallelism     uint64
	Delay           time.Duration `json:",omitempty"`
	FailureAction   string
	Monitor         time.Duration
	MaxFailureRatio float64
	Order           string
}

type updateStatus struct {
	State       string
	StartedAt   *time.Time `json:",omitempty"`
	CompletedAt *time.Time `json:",omitempty"`
	Message     string
}

func newObject(v *controlv1.ServiceView) object {
	svc := v.GetService()
	o := object{
		ID:            show.ID(svc.GetId()),
		Version:       version{svc.GetMeta().GetVersion()},
		CreatedAt:     show.Time(svc.GetMeta().GetCreatedAt()),
		UpdatedAt:     show.Time(svc.GetMeta().GetUpdatedAt()),
		Spec:          newSpec(svc.GetSpec(), v.GetTemplate()),
		ServiceStatus: serviceStatus{v.GetRunning(), v.GetDesired()},
		Revision:      revision{svc.GetCurrent(), svc.GetPrevious(), svc.GetTarget()},
		Removing:      svc.GetRemoving(),
	}
	if v.GetPreviousTemplate() != nil {
		o.PreviousSpec = &previousSpec{newTemplate(svc.GetSpec(), v.GetPreviousTemplate())}
	}
	if u := svc.GetUpdate(); u.GetState() != modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED {
		o.UpdateStatus = &updateStatus{State: updateState(u.GetState()), StartedAt: show.Time(u.GetStartedAt()),
			CompletedAt: show.Time(u.GetCompletedAt()), Message: u.GetMessage()}
	}
	return o
}

func newSpec(s *modelv1.ServiceSpec, t *modelv1.TaskTemplate) serviceSpec {
	out := serviceSpec{
		Name:           s.GetName(),
		Labels:         labels(s.GetLabels()),
		TaskTemplate:   newTemplate(s, t),
		UpdateConfig:   newUpdateConfig(s.GetUpdate()),
		RollbackConfig: newUpdateConfig(s.GetRollback()),
	}
	if s.GetGlobal() != nil {
		out.Mode.Global = &struct{}{}
	} else {
		out.Mode.Replicated = &replicated{s.GetReplicated().GetReplicas()}
	}
	return out
}

func newTemplate(s *modelv1.ServiceSpec, t *modelv1.TaskTemplate) taskTemplate {
	out := taskTemplate{
		ContainerSpec: newContainer(t.GetContainer()),
		Placement:     placement{Constraints: t.GetPlacement().GetConstraints(), MaxReplicas: t.GetPlacement().GetMaxReplicasPerNode()},
		ForceUpdate:   t.GetForce(),
		Runtime:       "container",
	}
	for _, over := range t.GetPlacement().GetSpread() {
		out.Placement.Preferences = append(out.Placement.Preferences, preference{spread{over}})
	}
	if l := t.GetLimits(); l != nil {
		out.Resources.Limits = &limits{l.GetNanoCpus(), l.GetMemoryBytes(), l.GetPids()}
	}
	if r := t.GetReservations(); r != nil {
		out.Resources.Reservations = &reservations{r.GetNanoCpus(), r.GetMemoryBytes()}
	}
	if r := s.GetRestart(); r != nil {
		out.RestartPolicy = &restartPolicy{Condition: word(r.GetCondition().String(), "RESTART_CONDITION_", "any"),
			Delay: time.Duration(r.GetDelay()), MaxAttempts: r.GetMaxAttempts(), Window: time.Duration(r.GetWindow())}
	}
	return out
}

func newUpdateConfig(c *modelv1.UpdateConfig) *updateConfig {
	if c == nil {
		return nil
	}
	return &updateConfig{
		Parallelism: c.GetParallelism(), Delay: time.Duration(c.GetDelay()),
		FailureAction:   word(c.GetFailureAction().String(), "FAILURE_ACTION_", "pause"),
		Monitor:         time.Duration(c.GetMonitor()),
		MaxFailureRatio: c.GetMaxFailureRatio(),
		Order:           word(c.GetOrder().String(), "UPDATE_ORDER_", "stop-first"),
	}
}

// word is an enum's value as flags spell it: "on-failure".
func word(name, prefix, unspecified string) string {
	out := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", "-")
	if out == "unspecified" {
		return unspecified
	}
	return out
}

// updateState keeps Docker's underscores: "rollback_started".
func updateState(s modelv1.UpdateState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "UPDATE_STATE_"))
}

// labels is never nil: scripts index it.
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
