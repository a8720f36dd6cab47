package clitest

import (
	"time"

	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// AddPing adds the service of the walkthrough as it is after its third slot was
// lost with dev02 and filled again on dev01.
func (s *Swarm) AddPing() *Swarm {
	v := s.Add(&modelv1.ServiceSpec{
		Name: "ping", Labels: map[string]string{"site": "seoul"},
		Mode:    &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 2}},
		Update:  &modelv1.UpdateConfig{Parallelism: 1, FailureAction: modelv1.FailureAction_FAILURE_ACTION_PAUSE, Order: modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST},
		Restart: &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ANY, Delay: int64(5 * time.Second)},
	}, &modelv1.TaskTemplate{
		Container: &modelv1.ContainerSpec{Image: "docker.io/library/alpine:latest", Args: []string{"ping", "docker.com"},
			StopGracePeriod: int64(10 * time.Second), Env: []string{"A=1", "B=two words"},
			Mounts: []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: "/srv", Target: "/data", ReadOnly: true}}},
		Limits:       &modelv1.Limits{NanoCpus: 5e8, MemoryBytes: 64 << 20, Pids: 100},
		Reservations: &modelv1.Resources{MemoryBytes: 32 << 20},
		Placement:    &modelv1.Placement{Constraints: []string{"node.role==manager"}, Spread: []string{"node.labels.rack"}},
	})
	lost := func(name string, slot uint64, node string, change func(*controlv1.TaskView)) {
		t := &controlv1.TaskView{ServiceName: "ping", NodeName: node, Image: "docker.io/library/alpine:3.20",
			Task: &modelv1.Task{Id: ID(name), Service: v.Service.Id, Slot: slot, Revision: 1, Node: ID(node), Desired: taskstate.Shutdown,
				Status: &modelv1.TaskStatus{State: taskstate.Running, At: Ago(3 * time.Minute)}}}
		change(t)
		s.Tasks = append(s.Tasks, t)
	}
	lost("old2", 2, "dev02", func(t *controlv1.TaskView) { t.UnknownSince = Ago(12 * time.Second) })
	lost("old1", 1, "dev01", func(t *controlv1.TaskView) {
		code := int32(255)
		t.Task.Status = &modelv1.TaskStatus{State: taskstate.Failed, At: Ago(44 * time.Second), ExitCode: &code}
	})
	lost("older1", 1, "dev01", func(t *controlv1.TaskView) {
		t.Task.CreatedAt = -1
		t.Task.Status = &modelv1.TaskStatus{State: taskstate.Rejected, At: Ago(2 * time.Hour),
			Error: "no such image: docker.io/library/alpine:3.20 at any registry asked"}
	})
	return s
}
