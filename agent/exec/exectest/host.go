// Package exectest holds a runtime in memory that keeps the promises of a real
// one, and the test that says what those promises are.
//
// A [Host] is one machine: its containers outlive every agent that runs on it.
// By default whatever is asked of it happens at once and containers run until
// they are stopped; a [Script] makes a task slow, failing or short-lived, and
// methods of the host break it: Exit, Vanish, SetDown, Reboot.
//
// Time is the time package's, so a host inside a synctest bubble costs no time.
package exectest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Script says how one task's container behaves. The zero Script succeeds at
// once and runs until it is stopped.
type Script struct {
	// PrepareDelay and PrepareErr are what Prepare does when it has to create
	// the container.
	PrepareDelay time.Duration
	PrepareErr   error
	// StartDelay and StartErr are what Start does when it has to start it.
	StartDelay time.Duration
	StartErr   error
	// Ends makes the container end by itself, RunFor after it was started,
	// with Exit's code and OOM.
	Ends   bool
	RunFor time.Duration
	Exit   exec.Exit
	// StopDelay is how long it takes to end after the stop signal. Longer than
	// the grace period: it is killed then, with code 137. Otherwise it ends
	// with StopCode.
	StopDelay time.Duration
	StopCode  int32
}

// A Host is a machine with containers. Its methods may be called from many
// goroutines at once.
type Host struct {
	mu         sync.Mutex // guards the fields below; held for memory only
	containers map[id.ID]*container
	remnants   map[id.ID]exec.Spec // of creations that were cut short
	script     func(exec.Spec) Script
	down       bool
	starts     map[id.ID]int
}

// NewHost returns a machine without containers.
func NewHost() *Host {
	return &Host{
		containers: make(map[id.ID]*container),
		remnants:   make(map[id.ID]exec.Spec),
		starts:     make(map[id.ID]int),
		script:     ReadScript,
	}
}

// Runtime returns the runtime of the host as the agent of one node sees it.
// What another call returned, for the same ids, sees the same containers: that
// is how an agent is restarted.
func (h *Host) Runtime(cluster, node id.ID) exec.Runtime {
	return &runtime{host: h, cluster: cluster, node: node}
}

// ReadScript is the script of a host that was given none. It reads the
// template: an image whose last part is "missing" is refused; the command or
// arguments "exit N" end at once with code N; "sleep D" ends with 0 after the
// duration D. Anything else runs until it is stopped.
func ReadScript(s exec.Spec) Script {
	c := s.Template.GetContainer()
	image := c.GetImage()
	if name, _, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":"); name == "missing" {
		return Script{PrepareErr: exec.Rejected(fmt.Errorf("no such image: %s", image))}
	}
	words := strings.Fields(strings.Join(slices.Concat(c.GetCommand(), c.GetArgs()), " "))
	if len(words) < 2 {
		return Script{}
	}
	if code, err := strconv.ParseInt(words[1], 10, 32); words[0] == "exit" && err == nil {
		return Script{Ends: true, Exit: exec.Exit{Code: int32(code)}}
	}
	if d, err := time.ParseDuration(words[1]); words[0] == "sleep" && err == nil {
		return Script{Ends: true, RunFor: d}
	}
	return Script{}
}

// SetScript makes script say how the containers behave that are prepared or
// started from now on. It must be safe for concurrent use.
func (h *Host) SetScript(script func(exec.Spec) Script) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script = script
}

// SetDown makes every call fail with exec.ErrUnavailable, or ends that. Calls
// that wait fail too. Containers run on.
func (h *Host) SetDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
	if down {
		for _, c := range h.containers {
			c.changed()
		}
	}
}

// Exit ends a running container from the inside; it reports whether there was
// one.
func (h *Host) Exit(task id.ID, exit exec.Exit) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.containers[task]
	return c != nil && c.end(exit)
}

// Vanish removes a container behind the agent's back; it reports whether there
// was one.
func (h *Host) Vanish(task id.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop(task)
}

// Reboot ends every process of the host without a trace: containers that ran
// are still listed, but how they ended is not known.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.containers {
		if c.running {
			c.running, c.lost = false, true
			c.changed()
		}
	}
}

// Running returns the tasks whose containers run, in the order of their ids.
func (h *Host) Running() []id.ID {
	return h.tasks(func(c *container) bool { return c.running })
}

// Tasks returns the tasks that have a container, or left something of one whose
// creation was cut short, in the order of their ids.
func (h *Host) Tasks() []id.ID {
	found := h.tasks(func(*container) bool { return true })
	h.mu.Lock()
	defer h.mu.Unlock()
	found = slices.AppendSeq(found, maps.Keys(h.remnants))
	slices.SortFunc(found, id.Compare)
	return found
}

// Starts returns how often a process was started for the task: at most 1, or
// the agent or this host is wrong.
func (h *Host) Starts(task id.ID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.starts[task]
}

func (h *Host) tasks(want func(*container) bool) []id.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []id.ID
	for task, c := range h.containers {
		if want(c) {
			found = append(found, task)
		}
	}
	slices.SortFunc(found, id.Compare)
	return found
}

// drop removes a container; h.mu is held.
func (h *Host) drop(task id.ID) bool {
	c := h.containers[task]
	if c == nil {
		return false
	}
	delete(h.containers, task)
	c.running = false
	c.changed()
	return true
}

// runtime is a host in the eyes of one node.
type runtime struct {
	host          *Host
	cluster, node id.ID
}

func (r *runtime) Describe(context.Context) (*modelv1.NodeDescription, error) {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	if r.host.down {
		return nil, exec.ErrUnavailable
	}
	return &modelv1.NodeDescription{
		Os: "linux", Architecture: "amd64", Runtime: "exectest",
		Resources: &modelv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
	}, nil
}

func (r *runtime) List(context.Context) ([]exec.Container, error) {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	if r.host.down {
		return nil, exec.ErrUnavailable
	}
	var found []exec.Container
	for c := range maps.Values(r.host.containers) {
		if c.spec.Cluster == r.cluster && c.spec.Node == r.node {
			found = append(found, c.listed())
		}
	}
	for task, spec := range r.host.remnants {
		if spec.Cluster == r.cluster && spec.Node == r.node {
			found = append(found, exec.Container{ID: containerID(spec), Task: task})
		}
	}
	slices.SortFunc(found, func(a, b exec.Container) int { return cmp.Compare(a.ID, b.ID) })
	return found, nil
}

func (r *runtime) Task(spec exec.Spec) exec.Controller {
	return &controller{host: r.host, spec: spec}
}
