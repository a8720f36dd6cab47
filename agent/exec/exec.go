// Package exec says what a container runtime must do for the agent: it owns
// the words between the two and nothing that runs.
//
// A [Runtime] knows the host and the containers this node runs for the swarm.
// A [Controller] leads one task's one container through its life: prepared,
// started, waited for, shut down, removed. Every method may be repeated, by
// this process or by the one that comes after it, and continues where the last
// left off: what a container has been through is remembered by the runtime,
// never by the controller.
//
// Invariants every runtime keeps (exectest.Conform checks them):
//
//   - a container is started at most once in its life, so a task that has
//     ended never runs again, whoever calls Start;
//   - containers outlive the agent, its restart, and a restart of the runtime's
//     own daemon;
//   - List shows the containers of this cluster and node only, and never omits
//     one that exists;
//   - a runtime that does not answer is an error that says so, never an exit.
package exec

import (
	"context"
	"time"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The labels a container carries, so that it can be found and known again.
const (
	LabelCluster = "skep.cluster" // id of the cluster, 25 digits
	LabelNode    = "skep.node"    // id of the node, 25 digits
	LabelTask    = "skep.task"    // id of the task, 25 digits
	LabelService = "skep.service" // id of the service, 25 digits
	LabelIndex   = "skep.index"   // index of the entry that created the task, decimal
)

// A Runtime runs containers on this host. Its methods may be called from many
// goroutines at once.
type Runtime interface {
	// Describe tells what the host is and has. Hostname and Address may be
	// empty: the agent's owner fills them in.
	Describe(ctx context.Context) (*modelv1.NodeDescription, error)
	// List returns every container that carries the labels of this cluster and
	// node, running or not. What a Prepare that was cut short left of one that
	// does not exist is listed too, not started and of index 0, and Remove
	// clears it away. A runtime may finish such a container afterwards: it is
	// listed then, as any other.
	List(ctx context.Context) ([]Container, error)
	// Task returns the controller of a task's container, which need not exist
	// yet. It does no I/O. A spec without a template is enough for Wait,
	// Shutdown, Remove and ContainerID of a container that exists; Prepare of
	// such a spec is refused with [ErrRejected].
	Task(spec Spec) Controller
}

// A Controller leads the one container of one task. One goroutine calls
// Prepare and Start; Wait, Shutdown and Remove may be called beside each other.
type Controller interface {
	// Prepare fetches what the container needs and creates it, not running.
	// It returns nil at once if the container exists.
	Prepare(ctx context.Context) error
	// Start starts the prepared container. It returns nil without doing
	// anything if the container was ever started, even if it has ended since,
	// and [ErrGone] if there is no container.
	Start(ctx context.Context) error
	// Wait returns how the container ended, as soon as it has; again and
	// again the same. It returns [ErrGone] if there is no container or its
	// end can no longer be known (the host was rebooted under it). On a
	// container that was not started it waits.
	Wait(ctx context.Context) (Exit, error)
	// Shutdown sends the stop signal, waits the grace period, kills, and
	// returns when the container is dead. It returns nil at once if there is
	// no container, or it is dead or was never started. When ctx ends first
	// the container may still run, and Shutdown may be called again.
	Shutdown(ctx context.Context) error
	// Remove removes the container and everything of it, killing it if it
	// runs. It returns nil if there is no container.
	Remove(ctx context.Context) error
	// ContainerID returns the runtime's name for the container. It is a
	// function of the spec, known before Prepare.
	ContainerID() string
}

// A Container is one that exists, as List found it.
type Container struct {
	Task    id.ID
	Service id.ID
	// ID is the runtime's name for it.
	ID string
	// CreatedIndex is the index of the entry that created its task (R1).
	CreatedIndex uint64
	// Started is true once it was started, even if it has ended since.
	Started bool
	// Running is true while its process lives.
	Running bool
	// Exit is how it ended; nil if it has not ended or nobody knows.
	Exit *Exit
}

// An Exit is how a container's first process ended.
type Exit struct {
	// Code is its exit status; 128 + n if signal n killed it.
	Code int32
	// At is when it ended. Zero if that is not known.
	At time.Time
	// OOM is true if the kernel killed it for want of memory.
	OOM bool
}
