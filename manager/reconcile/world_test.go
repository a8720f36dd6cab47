package reconcile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/orchestrate"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

// A world is a store whose log is applied at once, and a fleet of agents that do
// as the store says. It lives in a synctest bubble.
type world struct {
	t     *testing.T
	store *store.Store
	db    *store.DB

	mu    sync.Mutex // guards the fields below
	index uint64
	// entries counts the entries the loop proposed.
	entries int
	// before, if set, runs before each proposal of the loop is applied; an error
	// refuses it.
	before func() error
}

// Propose applies tx at once; it is the loop's way into the log.
func (w *world) Propose(_ context.Context, tx []byte) (uint64, error) {
	w.mu.Lock()
	hook := w.before
	w.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return 0, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries++
	w.index++
	return w.index, w.store.Apply(w.index, w.store.Now().UnixNano(), [][]byte{tx})[0]
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: store.New()}
	w.db = store.NewDB(w.store, w)
	w.write(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: idN(1, 1).Bytes()}}})
	return w
}

// start runs a loop until the test ends, or until the function returned is called.
func (w *world) start() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- New(Config{DB: w.db, Store: w.store, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// write applies the operations as one unit.
func (w *world) write(ops ...*logv1.Operation) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	tx := &logv1.Transaction{Units: []*logv1.Unit{{Operations: ops}}}
	if err := w.store.ApplyProto(w.index, w.store.Now().UnixNano(), []*logv1.Transaction{tx})[0]; err != nil {
		w.t.Errorf("write: %v", err)
	}
}

// clockWasOff logs an entry of a leader whose clock was that far ahead.
func (w *world) clockWasOff(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	w.store.Apply(w.index, time.Now().Add(d).UnixNano(), nil)
}

// idN returns the n-th id of a kind.
func idN(kind byte, n int) id.ID {
	x := id.ID{kind}
	binary.BigEndian.PutUint32(x[12:], uint32(n))
	return x
}

func nodeID(n int) id.ID    { return idN(2, n) }
func serviceID(n int) id.ID { return idN(3, n) }

func (w *world) node(n int, change func(*modelv1.Node)) {
	node := &modelv1.Node{
		Id: nodeID(n).Bytes(), Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Role: modelv1.Role_ROLE_WORKER,
		Spec:        &modelv1.NodeSpec{Availability: modelv1.Availability_AVAILABILITY_ACTIVE},
		Description: &modelv1.NodeDescription{Hostname: fmt.Sprintf("dev%02d", n)},
		Status:      &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY},
	}
	if old := w.store.Snapshot().Node(nodeID(n)); old != nil {
		node = proto.CloneOf(old)
	}
	if change != nil {
		change(node)
	}
	w.write(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: node}})
}

// seen writes the state of a node as the liveness loop does.
func (w *world) seen(n int, state modelv1.NodeState) {
	status := &modelv1.NodeStatus{State: state}
	if state != modelv1.NodeState_NODE_STATE_READY {
		status.LostSince = time.Now().UnixNano()
	}
	w.write(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: nodeID(n).Bytes(), Status: status}}})
}

func (w *world) create(n int, replicas uint64, change func(*modelv1.Service, *modelv1.TaskTemplate)) {
	svc := &modelv1.Service{Id: serviceID(n).Bytes(), Spec: &modelv1.ServiceSpec{
		Name:    fmt.Sprintf("svc%d", n),
		Mode:    &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: replicas}},
		Restart: &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ANY, Delay: int64(5 * time.Second)},
		Update:  &modelv1.UpdateConfig{Parallelism: 1, Monitor: int64(5 * time.Second)},
	}}
	template := &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}}
	if change != nil {
		change(svc, template)
	}
	orchestrate.Revise(svc, 1, time.Now().UnixNano())
	w.write(
		&logv1.Operation{Op: &logv1.Operation_Claim{Claim: &modelv1.Claim{Kind: store.ClaimServiceName, Key: svc.GetSpec().GetName(), Owner: svc.GetId()}}},
		&logv1.Operation{Op: &logv1.Operation_PutService{PutService: svc}},
		&logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: svc.GetId(), Number: 1, Template: template}}})
	time.Sleep(time.Millisecond) // log time moves on
}

// edit changes a service; with a template it is a new revision.
func (w *world) edit(n int, template *modelv1.TaskTemplate, change func(*modelv1.Service)) {
	svc := proto.CloneOf(w.store.Snapshot().Service(serviceID(n)))
	var ops []*logv1.Operation
	if change != nil {
		change(svc)
	}
	if template != nil {
		number := svc.GetLastRevision() + 1
		orchestrate.Revise(svc, number, time.Now().UnixNano())
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_PutRevision{PutRevision: &modelv1.Revision{Service: svc.GetId(), Number: number, Template: template}}})
	}
	w.write(append(ops, &logv1.Operation{Op: &logv1.Operation_PutService{PutService: svc}})...)
}

func (w *world) scale(n int, replicas uint64) {
	w.edit(n, nil, func(s *modelv1.Service) {
		if r := s.GetSpec().GetReplicated(); r != nil {
			r.Replicas = replicas
		}
	})
}

func (w *world) report(t *store.Task, state taskstate.State) {
	w.write(&logv1.Operation{Op: &logv1.Operation_Report{Report: &logv1.Report{
		Task: t.ID.Bytes(), Node: t.Node.Bytes(), Status: &modelv1.TaskStatus{State: state}}}})
}

// tasks returns the service's tasks for which ok holds, in slot order.
func (w *world) tasks(n int, ok func(*store.Task) bool) []*store.Task {
	var out []*store.Task
	for t := range w.store.Snapshot().TasksByService(serviceID(n)) {
		if ok(t) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *store.Task) int {
		if a.Slot != b.Slot {
			return int(a.Slot) - int(b.Slot)
		}
		return int(a.CreatedIndex) - int(b.CreatedIndex)
	})
	return out
}

func wanted(t *store.Task) bool  { return t.Desired <= taskstate.Running && !t.Terminal() }
func running(t *store.Task) bool { return wanted(t) && t.Observed == taskstate.Running }

// A fleet is the agents of the nodes that are up.
type fleet struct {
	w    *world
	rand *rand.Rand // nil: every agent acts at once
	up   map[int]bool
	// crash, if set, says which running tasks fail.
	crash func(*store.Task) bool
}

func newFleet(w *world, nodes int, rng *rand.Rand) *fleet {
	f := &fleet{w: w, rand: rng, up: make(map[int]bool)}
	for n := range nodes {
		f.up[n] = true
	}
	return f
}

// step lets every agent do one thing for each of its tasks; false if nothing was
// left to do.
func (f *fleet) step() bool {
	acted := false
	for n := range len(f.up) {
		if !f.up[n] {
			continue
		}
		for _, t := range slices.Collect(f.w.store.Snapshot().TasksByNode(nodeID(n))) {
			state, ok := f.next(t)
			if !ok {
				continue
			}
			acted = true
			if f.rand == nil || f.rand.IntN(3) > 0 {
				f.w.report(t, state)
			}
		}
	}
	return acted
}

// next returns the state t goes to when its agent acts.
func (f *fleet) next(t *store.Task) (taskstate.State, bool) {
	switch {
	case t.Terminal():
		return 0, false
	case t.Desired > taskstate.Running:
		return taskstate.Shutdown, true
	case t.Observed < taskstate.Preparing:
		return taskstate.Preparing, true
	case f.crash != nil && f.crash(t):
		return taskstate.Failed, true
	case t.Observed < taskstate.Running:
		return taskstate.Running, true
	}
	return 0, false
}

// settle lets agents and loop work until neither has anything to do at once.
func (f *fleet) settle(wait func()) {
	f.w.t.Helper()
	for range 10_000 {
		wait()
		if !f.step() {
			wait()
			if !f.step() {
				return
			}
		}
	}
	f.w.t.Error("the fleet never comes to rest")
}

var errRefused = errors.New("refused by the test")
