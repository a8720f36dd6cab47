package bubble

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	asWorker  = modelv1.Role_ROLE_WORKER
	asManager = modelv1.Role_ROLE_MANAGER

	down    = modelv1.NodeState_NODE_STATE_DOWN
	unknown = modelv1.NodeState_NODE_STATE_UNKNOWN
	ready   = modelv1.NodeState_NODE_STATE_READY

	running = modelv1.TaskState_TASK_STATE_RUNNING

	// lease and beat are the cluster's where its spec says nothing.
	lease = 10 * time.Second
	beat  = 2 * time.Second
)

type taskView = controlv1.TaskView

// onWorkers keeps tasks off the managers.
const onWorkers = "node.role == worker"

// managers makes a swarm of n managers and returns them, the leader first.
func (c *cluster) managers(n int, spec *modelv1.ClusterSpec) []*host {
	c.t.Helper()
	var ms []*host
	for i := range n {
		h := c.host(fmt.Sprintf("m%d", i+1))
		if i == 0 {
			h.init(spec)
		} else {
			h.join(ms[0], asManager)
		}
		ms = append(ms, h)
	}
	return ms
}

// workers adds n workers through a manager.
func (c *cluster) workers(n int, via *host) []*host {
	c.t.Helper()
	var ws []*host
	for i := range n {
		h := c.host(fmt.Sprintf("w%d", i+1))
		h.join(via, asWorker)
		ws = append(ws, h)
	}
	return ws
}

// until waits until ok holds; it fails the test if that takes longer than most.
// It returns how long it took.
func (c *cluster) until(most time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > most {
			c.t.Fatalf("after %v: not yet %s", most, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// throughout checks over a time that ok holds throughout.
func (c *cluster) throughout(d time.Duration, what string, ok func() bool) {
	c.t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(50 * time.Millisecond) {
		if !ok() {
			c.t.Fatalf("after %v: no longer %s", time.Since(began), what)
		}
	}
}

func requestID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says its contract
	return b
}

func replicated(name string, n uint64) *modelv1.ServiceSpec {
	return &modelv1.ServiceSpec{Name: name, Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: n}}}
}

func template(image string) *modelv1.TaskTemplate {
	return &modelv1.TaskTemplate{
		Container: &modelv1.ContainerSpec{Image: image},
		Placement: &modelv1.Placement{Constraints: []string{onWorkers}},
	}
}

// create makes a service by one call, which is not repeated.
func (h *host) create(most time.Duration, spec *modelv1.ServiceSpec) (time.Duration, error) {
	ctx, stop := h.c.within(most)
	defer stop()
	began := time.Now()
	_, err := h.control().CreateService(ctx, &controlv1.CreateServiceRequest{
		RequestId: requestID(), Spec: spec, Template: template("app:1"),
	})
	return time.Since(began), err
}

// mustRun creates a service and waits until all of it runs.
func (h *host) mustRun(name string, n uint64) {
	h.c.t.Helper()
	if _, err := h.create(5*time.Second, replicated(name, n)); err != nil {
		h.c.t.Fatalf("create %s: %v", name, err)
	}
	defer func() {
		if h.c.t.Failed() {
			h.show(name)
		}
	}()
	h.c.until(5*time.Second, fmt.Sprintf("%d tasks of %s running", n, name), func() bool {
		return len(h.tasks(name, isRunning)) == int(n)
	})
}

// show writes what a manager holds of a service and the nodes to the log.
func (h *host) show(name string) {
	for _, v := range h.tasks(name, every) {
		t := v.GetTask()
		h.c.t.Logf("slot %d on %s (%s): desired %v, is %v, unknown since %d, %s",
			t.GetSlot(), v.GetNodeName(), t.GetReason(), t.GetDesired(), t.GetStatus().GetState(), v.GetUnknownSince(), ids([]*taskView{v}))
	}
	for at, v := range h.nodes() {
		n := v.GetNode()
		h.c.t.Logf("%s: %v %v %s", at, n.GetRole(), n.GetStatus(), n.GetDescription())
	}
}

// tasks returns a service's tasks as a manager's replica has them, for which
// want holds.
func (h *host) tasks(service string, want func(*taskView) bool) []*taskView {
	h.c.t.Helper()
	ctx, stop := h.c.within(5 * time.Second)
	defer stop()
	resp, err := h.control().ListTasks(rpc.Stale(ctx), &controlv1.ListTasksRequest{
		Filter: &controlv1.Filter{Services: []string{service}},
	})
	if err != nil && !errdefs.IsNotFound(err) { // its replica may not have it yet
		h.c.t.Fatalf("list tasks on %s: %v", h.name, err)
	}
	return slices.DeleteFunc(resp.GetTasks(), func(t *taskView) bool { return !want(t) })
}

func isRunning(t *taskView) bool {
	return t.GetTask().GetStatus().GetState() == running && t.GetTask().GetDesired() == running && t.GetUnknownSince() == 0
}

func every(*taskView) bool { return true }

// on keeps the tasks of a host.
func on(h *host) func(*taskView) bool {
	return func(t *taskView) bool { return string(t.GetTask().GetNode()) == string(h.id.Bytes()) }
}

// ids are the tasks' ids, sorted.
func ids(tasks []*taskView) []string {
	var out []string
	for _, t := range tasks {
		if x, err := id.FromBytes(t.GetTask().GetId()); err == nil {
			out = append(out, x.String())
		}
	}
	slices.Sort(out)
	return out
}

// nodes is the nodes as a manager's replica has them, by host.
func (h *host) nodes() map[string]*controlv1.NodeView {
	h.c.t.Helper()
	out := h.nodesIfManager()
	if out == nil {
		h.c.t.Fatalf("list nodes on %s: it is no manager", h.name)
	}
	return out
}

// nodesIfManager is nodes, and nil where no manager answers.
func (h *host) nodesIfManager() map[string]*controlv1.NodeView {
	h.c.t.Helper()
	ctx, stop := h.c.within(5 * time.Second)
	defer stop()
	resp, err := h.control().ListNodes(rpc.Stale(ctx), &controlv1.ListNodesRequest{})
	if err != nil {
		return nil
	}
	out := make(map[string]*controlv1.NodeView)
	for _, n := range resp.GetNodes() {
		for _, at := range h.c.hosts {
			if string(at.id.Bytes()) == string(n.GetNode().GetId()) {
				out[at.name] = n
			}
		}
	}
	return out
}

// state is the state of a host's node as a manager shows it.
func (h *host) state(of *host) modelv1.NodeState {
	return h.nodes()[of.name].GetNode().GetStatus().GetState()
}

// ready waits until every node is.
func (h *host) ready(n int) {
	h.c.t.Helper()
	h.c.until(10*time.Second, "every node ready", func() bool {
		ok := 0
		for _, v := range h.nodes() {
			if v.GetNode().GetStatus().GetState() == ready {
				ok++
			}
		}
		return ok == n
	})
}

// update changes a node.
func (h *host) update(node *host, role modelv1.Role, availability modelv1.Availability) error {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	req := &controlv1.UpdateNodeRequest{RequestId: requestID(), Ref: node.id.String()}
	if role != 0 {
		req.Role = &role
	}
	if availability != 0 {
		req.Availability = &availability
	}
	_, err := h.control().UpdateNode(ctx, req)
	return err
}
