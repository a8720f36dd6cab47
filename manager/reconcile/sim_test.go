package reconcile

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestServicesConvergeUnderFaults drives a fleet with seeded faults, and a log
// that refuses, conflicts and forgets to answer, and holds every state on the way
// to what must never be, and the last one to what must come.
func TestServicesConvergeUnderFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

const simNodes, simServices = 6, 3

// sim is one run.
type sim struct {
	*world
	fleet *fleet
	rng   *rand.Rand
	stop  func()
	calm  bool

	acting sync.Mutex     // held while something happens to the cluster; guards all above
	lost   map[id.ID]bool // tasks whose node was down: a successor was right
}

func simulate(t *testing.T, seed uint64) {
	s := &sim{world: newWorld(t), lost: make(map[id.ID]bool), rng: rand.New(rand.NewPCG(seed, 0))}
	for n := range simNodes {
		s.node(n, func(n *modelv1.Node) { n.Spec.Labels = map[string]string{"zone": fmt.Sprint(s.rng.IntN(3))} })
	}
	s.fleet = newFleet(s.world, simNodes, s.rng)
	for n := range simServices {
		s.create(n, uint64(s.rng.IntN(8)), s.randomService)
	}
	s.before = s.interfere
	s.stop = s.start()
	for range 300 {
		switch draw := s.draw(); draw {
		case 0, 1, 2, 3:
			time.Sleep(time.Duration(2*draw) * time.Second)
		case 4: // another leader goes on where this one stops
			s.stop()
			s.stop = s.start()
		default:
			s.acting.Lock()
			s.act()
			s.acting.Unlock()
		}
		synctest.Wait() // only interfere acts while the loop does
		s.check()
	}
	s.heal()
	for range 30 {
		s.fleet.settle(synctest.Wait)
		time.Sleep(20 * time.Second)
		s.check()
	}
	s.converged()
	s.stop()
}

func (s *sim) randomService(svc *modelv1.Service, t *modelv1.TaskTemplate) {
	svc.Spec.Update.Parallelism = uint64(s.rng.IntN(3))
	if s.rng.IntN(3) == 0 {
		svc.Spec.Update.Order = modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST
	}
	if s.rng.IntN(4) == 0 {
		svc.Spec.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
	}
	svc.Spec.Restart.Condition = []modelv1.RestartCondition{modelv1.RestartCondition_RESTART_CONDITION_ANY,
		modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE}[s.rng.IntN(2)]
	svc.Spec.Update.Delay = int64(s.rng.IntN(2)) * int64(time.Second)
	svc.Spec.Update.FailureAction = modelv1.FailureAction(s.rng.IntN(4))
	svc.Spec.Update.MaxFailureRatio = float64(s.rng.IntN(2)) / 3
	svc.Spec.Rollback = &modelv1.UpdateConfig{Parallelism: 1, FailureAction: modelv1.FailureAction_FAILURE_ACTION_CONTINUE}
	if s.rng.IntN(2) == 0 {
		t.Placement = &modelv1.Placement{Spread: []string{"node.labels.zone"}, MaxReplicasPerNode: 3}
	}
}

// draw draws what the test does next.
func (s *sim) draw() int {
	s.acting.Lock()
	defer s.acting.Unlock()
	return s.rng.IntN(48)
}

// interfere is what may happen between a plan and its commit.
func (s *sim) interfere() error {
	s.acting.Lock()
	defer s.acting.Unlock()
	if s.calm {
		return nil
	}
	switch s.rng.IntN(12) {
	case 0:
		return errRefused
	case 1: // the operator touches what the units rely on
		s.scale(s.rng.IntN(simServices), uint64(s.rng.IntN(8)))
	case 2:
		s.act()
	}
	return nil
}

// act is one thing that happens to the cluster.
func (s *sim) act() {
	n := s.rng.IntN(simNodes)
	switch s.rng.IntN(16) {
	case 0:
		s.fleet.up[n] = false
		s.seen(n, modelv1.NodeState_NODE_STATE_UNKNOWN)
	case 1:
		if !s.fleet.up[n] {
			s.seen(n, modelv1.NodeState_NODE_STATE_DOWN)
			for t := range s.store.Snapshot().TasksByNode(nodeID(n)) {
				s.lost[t.ID] = true
			}
		}
	case 2, 3:
		s.fleet.up[n] = true
		s.seen(n, modelv1.NodeState_NODE_STATE_READY)
	case 4:
		a := modelv1.Availability(1 + s.rng.IntN(3))
		s.node(n, func(n *modelv1.Node) { n.Spec.Availability = a })
	case 5:
		s.scale(s.rng.IntN(simServices), uint64(s.rng.IntN(8)))
	case 6:
		s.edit(s.rng.IntN(simServices), &modelv1.TaskTemplate{Force: s.rng.Uint64()}, nil)
	case 7:
		for _, t := range s.tasks(s.rng.IntN(simServices), running) {
			if s.fleet.up[int(t.Node[15])] && s.rng.IntN(3) == 0 {
				s.report(t, taskstate.Failed)
			}
		}
	default:
		s.fleet.step()
	}
}

// check holds the state to what must never be.
func (s *sim) check() {
	s.t.Helper()
	snap := s.store.Snapshot()
	type place struct {
		service id.ID
		slot    uint64
		node    id.ID // of a global service
	}
	may := make(map[place]*store.Task) // the task of the slot that may be running on a sound node
	for t := range snap.Tasks() {
		if t.Terminal() || t.Node.IsZero() || snap.Node(t.Node).GetStatus().GetState() != modelv1.NodeState_NODE_STATE_READY {
			continue
		}
		at := place{service: t.Service, slot: t.Slot}
		if t.Slot == 0 {
			at.node = t.Node
		}
		other := may[at]
		may[at] = t
		if snap.Service(t.Service).GetSpec().GetUpdate().GetOrder() == modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST {
			continue // two are right there
		}
		if other == nil || s.lost[t.ID] || s.lost[other.ID] {
			continue
		}
		s.t.Fatalf("slot %d has two tasks that may run: %+v and %+v", t.Slot, t, other)
	}
}

// heal ends all faults.
func (s *sim) heal() {
	s.acting.Lock()
	defer s.acting.Unlock()
	s.calm = true
	s.fleet.rand = nil
	for n := range simNodes {
		s.fleet.up[n] = true
		s.seen(n, modelv1.NodeState_NODE_STATE_READY)
		s.node(n, func(n *modelv1.Node) { n.Spec.Availability = modelv1.Availability_AVAILABILITY_ACTIVE })
	}
}

// converged holds the last state to what must come.
func (s *sim) converged() {
	s.t.Helper()
	for n := range simServices {
		svc := s.store.Snapshot().Service(serviceID(n))
		want := int(svc.GetSpec().GetReplicated().GetReplicas())
		global := svc.GetSpec().GetGlobal() != nil
		if global {
			want = simNodes
		}
		s.want(want, fmt.Sprintf("of service %d running", n), s.tasks(n, running))
		s.want(want, fmt.Sprintf("of service %d wanted", n), s.tasks(n, wanted))
		seen := make(map[uint64]bool)
		for _, t := range s.tasks(n, running) {
			if seen[t.Slot] && !global {
				s.t.Errorf("two tasks in slot %d", t.Slot)
			}
			seen[t.Slot] = true
		}
		switch svc.GetUpdate().GetState() {
		case modelv1.UpdateState_UPDATE_STATE_UPDATING, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:
			s.t.Errorf("service %d is still updating: %v", n, svc)
		case modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED, modelv1.UpdateState_UPDATE_STATE_COMPLETED, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
			s.want(want, "of the target revision", s.tasks(n, func(t *store.Task) bool { return running(t) && t.Revision == svc.GetTarget() }))
		}
	}
}
