package exec

import (
	"strconv"
	"time"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// DefaultStopGrace is how long a container gets to stop when its template does
// not say, or is not known any more.
const DefaultStopGrace = 10 * time.Second

// A Spec is everything a runtime needs to know of one task.
type Spec struct {
	Cluster id.ID
	Node    id.ID
	Task    id.ID
	Service id.ID
	// Slot is 1-based; 0 for a task that belongs to its node.
	Slot     uint64
	Revision uint64
	// CreatedIndex is the index of the entry that created the task.
	CreatedIndex  uint64
	ServiceName   string
	NodeHostname  string
	ServiceLabels map[string]string
	// Template is shared and never changed. It is nil for a container whose
	// assignment is not known any more.
	Template *modelv1.TaskTemplate
	// RegistryAuth is for the registry of the template's image, and secret. It
	// is shared and never changed; nil if there is none.
	RegistryAuth *modelv1.RegistryAuth
}

// Name returns "service.slot.task", or "service.node.task" for a task without
// a slot: how people speak of the task.
func (s Spec) Name() string {
	place := s.Node.String()
	if s.Slot != 0 {
		place = strconv.FormatUint(s.Slot, 10)
	}
	return s.ServiceName + "." + place + "." + s.Task.String()
}

// StopGrace returns how long the container gets between the stop signal and
// the kill.
func (s Spec) StopGrace() time.Duration {
	if grace := s.Template.GetContainer().GetStopGracePeriod(); grace > 0 {
		return time.Duration(grace)
	}
	return DefaultStopGrace
}

// Labels returns the labels by which the task's container is found again.
func (s Spec) Labels() map[string]string {
	return map[string]string{
		LabelCluster: s.Cluster.String(),
		LabelNode:    s.Node.String(),
		LabelTask:    s.Task.String(),
		LabelService: s.Service.String(),
		LabelIndex:   strconv.FormatUint(s.CreatedIndex, 10),
	}
}
