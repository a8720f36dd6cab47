package orchestrate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const second = int64(time.Second)

// epoch is the time of the tests' plans.
var epoch = time.Unix(1_000_000, 0)

func taskN(n int) id.ID { return id.ID{0: 9, 15: byte(n)} }
func nodeN(n int) id.ID { return id.ID{0: 1, 15: byte(n)} }

// a makes a task in a slot that runs on node 1, of revision 1, since long ago.
func a(n int, slot uint64, change ...func(*Task)) Task {
	t := Task{ID: taskN(n), Node: nodeN(1), Revision: 1, Slot: slot, CreatedIndex: uint64(n),
		Desired: taskstate.Running, Observed: taskstate.Running,
		CreatedAt: epoch.UnixNano() - 3600*second, DesiredAt: epoch.UnixNano() - 3600*second, ObservedAt: epoch.UnixNano() - 3500*second}
	for _, c := range change {
		c(&t)
	}
	return t
}

func hostLost(t *Task)                       { t.HostLost = true }
func on(n int) func(*Task)                   { return func(t *Task) { t.Node = nodeN(n) } }
func nowhere(t *Task)                        { t.Node, t.Observed = id.ID{}, taskstate.Pending }
func desired(s taskstate.State) func(*Task)  { return func(t *Task) { t.Desired = s } }
func observed(s taskstate.State) func(*Task) { return func(t *Task) { t.Observed = s } }
func revision(n uint64) func(*Task)          { return func(t *Task) { t.Revision = n } }
func ago(seconds int64) func(*Task) {
	return func(t *Task) { t.ObservedAt = epoch.UnixNano() - seconds*second }
}

// made says that the task was made by an update that began a minute ago, or later.
func made(t *Task) {
	t.CreatedAt, t.DesiredAt = epoch.UnixNano()-30*second, epoch.UnixNano()-30*second
	t.ObservedAt = epoch.UnixNano() - 20*second
}

// svc makes a service of revision 1.
func svc(replicas uint64, change ...func(*modelv1.Service)) *modelv1.Service {
	s := &modelv1.Service{Current: 1, Target: 1, Spec: &modelv1.ServiceSpec{
		Mode:    &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: replicas}},
		Restart: &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ANY, Delay: 5 * second},
		Update:  &modelv1.UpdateConfig{Parallelism: 1, Monitor: 5 * second},
	}}
	for _, c := range change {
		c(s)
	}
	return s
}

func restart(p *modelv1.RestartPolicy) func(*modelv1.Service) {
	return func(s *modelv1.Service) { s.Spec.Restart = p }
}

// updating is a service on its way to revision 2 for a minute.
func updating(change ...func(*modelv1.UpdateConfig)) func(*modelv1.Service) {
	return func(s *modelv1.Service) {
		s.Previous, s.Target = 1, 2
		s.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_UPDATING, StartedAt: epoch.UnixNano() - 60*second}
		for _, c := range change {
			c(s.Spec.Update)
		}
	}
}

func action(f modelv1.FailureAction) func(*modelv1.UpdateConfig) {
	return func(c *modelv1.UpdateConfig) { c.FailureAction = f }
}
func startFirst(c *modelv1.UpdateConfig) { c.Order = modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST }

// show writes an answer as the tests read it: "1: stop 3, make r2".
func show(a Answer) string {
	var out []string
	for _, m := range a.Moves {
		var parts []string
		for _, d := range m.Decide {
			word := map[taskstate.State]string{taskstate.Shutdown: "stop", taskstate.Remove: "remove"}[d.Desired]
			parts = append(parts, fmt.Sprint(word, " ", d.Task[15]))
		}
		if m.Create != 0 {
			parts = append(parts, fmt.Sprint("make r", m.Create))
		}
		at := fmt.Sprint(m.Slot)
		if !m.Node.IsZero() {
			at = fmt.Sprint("node ", m.Node[15])
		}
		out = append(out, at+": "+strings.Join(parts, ", "))
	}
	return strings.Join(out, "; ")
}

func nodes(change ...func(*Node)) map[id.ID]Node {
	out := make(map[id.ID]Node)
	for n := 1; n <= 3; n++ {
		node := Node{ID: nodeN(n), Name: fmt.Sprint("dev", n), State: modelv1.NodeState_NODE_STATE_READY, Availability: modelv1.Availability_AVAILABILITY_ACTIVE}
		if n <= len(change) && change[n-1] != nil {
			change[n-1](&node)
		}
		out[node.ID] = node
	}
	return out
}

func down(n *Node)    { n.State = modelv1.NodeState_NODE_STATE_DOWN }
func unknown(n *Node) { n.State = modelv1.NodeState_NODE_STATE_UNKNOWN }
func drain(n *Node)   { n.Availability = modelv1.Availability_AVAILABILITY_DRAIN }
func pause(n *Node)   { n.Availability = modelv1.Availability_AVAILABILITY_PAUSE }

func TestPlan(t *testing.T) {
	t.Parallel()
	onFailure := &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, Delay: 5 * second}
	none := &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_NONE}
	twice := &modelv1.RestartPolicy{Delay: 5 * second, MaxAttempts: 2}
	for _, tt := range []struct {
		name  string
		svc   *modelv1.Service
		tasks []Task
		nodes map[id.ID]Node
		want  string
		// wake is in seconds from now; 0 is never.
		wake int64
		// state is the update's, if the plan changes it.
		state modelv1.UpdateState
	}{
		{name: "a new service gets all its slots, lowest first", svc: svc(3), want: "1: make r1; 2: make r1; 3: make r1"},
		{name: "a satisfied service gets nothing", svc: svc(2), tasks: []Task{a(1, 1), a(2, 2)}},
		{name: "a gap is filled first", svc: svc(3), tasks: []Task{a(1, 1), a(3, 3)}, want: "2: make r1"},
		{name: "shrinking removes the highest slots", svc: svc(1), tasks: []Task{a(1, 1), a(2, 2), a(3, 3)}, want: "2: remove 2; 3: remove 3"},
		{name: "shrinking prefers a slot that does not run", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Starting)), a(2, 2)}, want: "1: remove 1"},
		{name: "a removed slot goes with its history", svc: svc(0), tasks: []Task{a(1, 1, desired(taskstate.Shutdown), observed(taskstate.Failed)), a(2, 1)}, want: "1: remove 1, remove 2"},
		{name: "growing waits for what still stops in the slot", svc: svc(2), tasks: []Task{a(1, 1), a(2, 2, desired(taskstate.Remove))}},
		{name: "a removed service loses all tasks", svc: svc(2, func(s *modelv1.Service) { s.Removing = true }), tasks: []Task{a(1, 1), a(2, 2)}, want: "1: remove 1; 2: remove 2"},

		{name: "a failed task is followed when due", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Failed), ago(5))}, want: "1: make r1, stop 1"},
		{name: "and not before", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Failed), ago(2))}, wake: 3},
		{name: "one whose host was rebooted is followed at once", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Failed), ago(0), hostLost)}, want: "1: make r1, stop 1"},
		{name: "under whatever policy", svc: svc(1, restart(none)), tasks: []Task{a(1, 1, observed(taskstate.Failed), ago(0), hostLost)}, want: "1: make r1, stop 1"},
		{name: "a completed task is followed under any", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Complete))}, want: "1: make r1, stop 1"},
		{name: "but not under on-failure", svc: svc(1, restart(onFailure)), tasks: []Task{a(1, 1, observed(taskstate.Complete))}},
		{name: "a rejected one is", svc: svc(1, restart(onFailure)), tasks: []Task{a(1, 1, observed(taskstate.Rejected))}, want: "1: make r1, stop 1"},
		{name: "nothing that ends is followed under none", svc: svc(1, restart(none)), tasks: []Task{a(1, 1, observed(taskstate.Failed))}},
		{name: "a lost task is, for it did not end", svc: svc(1, restart(none)), tasks: []Task{a(1, 1)}, nodes: nodes(down), want: "1: make r1, stop 1"},
		{name: "two attempts are made", svc: svc(1, restart(twice)), want: "1: make r1, stop 2", tasks: []Task{
			a(1, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3600)), a(2, 1, observed(taskstate.Failed))}},
		{name: "and no third", svc: svc(1, restart(twice)), tasks: []Task{
			a(1, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3600)),
			a(2, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3600)), a(3, 1, observed(taskstate.Failed))}},
		{name: "an end before the window is forgotten", want: "1: make r1, stop 3",
			svc: svc(1, restart(&modelv1.RestartPolicy{Delay: 5 * second, MaxAttempts: 2, Window: 60 * second})), tasks: []Task{
				a(1, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3700)),
				a(2, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3620)), a(3, 1, observed(taskstate.Failed), ago(3600))}},
		{name: "a lost one is no attempt", svc: svc(1, restart(twice)), want: "1: make r1, stop 3", tasks: []Task{
			a(1, 1, observed(taskstate.Orphaned), desired(taskstate.Shutdown), ago(3600)),
			a(2, 1, observed(taskstate.Failed), desired(taskstate.Shutdown), ago(3600)), a(3, 1, observed(taskstate.Failed))}},

		{name: "an unknown node keeps its task", svc: svc(1), tasks: []Task{a(1, 1)}, nodes: nodes(unknown)},
		{name: "a down one loses it at once", svc: svc(1), tasks: []Task{a(1, 1)}, nodes: nodes(down), want: "1: make r1, stop 1"},
		{name: "a removed one too", svc: svc(1), tasks: []Task{a(1, 1, on(7))}, want: "1: make r1, stop 1"},
		{name: "a task told to stop on a down node is not waited for", svc: svc(1), tasks: []Task{a(1, 1, desired(taskstate.Shutdown))}, nodes: nodes(down), want: "1: make r1"},
		{name: "what was replaced is stopped when its node is back", svc: svc(1), tasks: []Task{a(1, 1, desired(taskstate.Shutdown)), a(2, 1, on(2))}},
		{name: "drain stops first", svc: svc(1), tasks: []Task{a(1, 1)}, nodes: nodes(drain), want: "1: stop 1"},
		{name: "and follows without delay", svc: svc(1), tasks: []Task{a(1, 1, desired(taskstate.Shutdown), observed(taskstate.Shutdown), ago(0))}, nodes: nodes(drain), want: "1: make r1"},
		{name: "pause leaves what runs", svc: svc(1), tasks: []Task{a(1, 1)}, nodes: nodes(pause)},
		{name: "of two in a slot the one further on stays", svc: svc(1), tasks: []Task{a(1, 1, observed(taskstate.Starting)), a(2, 1)}, want: "1: stop 1"},

		{name: "an update that is due begins and takes one slot", svc: svc(2, func(s *modelv1.Service) { s.Target = 2 }), tasks: []Task{a(1, 1), a(2, 2)},
			want: "1: stop 1", state: modelv1.UpdateState_UPDATE_STATE_UPDATING},
		{name: "it waits for the old to end", svc: svc(2, updating()), tasks: []Task{a(1, 1, desired(taskstate.Shutdown)), a(2, 2)}},
		{name: "then makes the new", svc: svc(2, updating()), tasks: []Task{a(1, 1, desired(taskstate.Shutdown), observed(taskstate.Shutdown)), a(2, 2)}, want: "1: make r2"},
		{name: "waits for it to run", svc: svc(2, updating()), tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Preparing)), a(2, 2)}},
		{name: "and goes on", svc: svc(2, updating()), tasks: []Task{a(1, 1, revision(2), made), a(2, 2)}, want: "2: stop 2"},
		{name: "after the delay", svc: svc(2, updating(func(c *modelv1.UpdateConfig) { c.Delay = 30 * second })), tasks: []Task{a(1, 1, revision(2), made), a(2, 2)}, wake: 10},
		{name: "a slot that does not run goes first", svc: svc(2, updating()), tasks: []Task{a(1, 1), a(2, 2, observed(taskstate.Preparing))}, want: "2: stop 2"},
		{name: "one that found no node goes last, at once", svc: svc(2, updating(func(c *modelv1.UpdateConfig) { c.Parallelism = 2 })),
			tasks: []Task{a(1, 1, nowhere), a(2, 2)}, want: "1: stop 1, make r2; 2: stop 2"},
		{name: "all at once", svc: svc(3, updating(func(c *modelv1.UpdateConfig) { c.Parallelism = 0 })), tasks: []Task{a(1, 1), a(2, 2), a(3, 3)}, want: "1: stop 1; 2: stop 2; 3: stop 3"},
		{name: "start first makes the new", svc: svc(2, updating(startFirst)), tasks: []Task{a(1, 1), a(2, 2)}, want: "1: make r2"},
		{name: "keeps the old meanwhile", svc: svc(2, updating(startFirst)), tasks: []Task{a(1, 1), a(2, 2), a(3, 1, revision(2), made, observed(taskstate.Starting))}},
		{name: "and stops it then", svc: svc(2, updating(startFirst)), tasks: []Task{a(1, 1), a(2, 2), a(3, 1, revision(2), made)}, want: "1: stop 1"},
		{name: "the last is watched", svc: svc(1, updating(func(c *modelv1.UpdateConfig) { c.Monitor = 30 * second })), tasks: []Task{a(1, 1, revision(2), made)}, wake: 10},
		{name: "before the update is complete", svc: svc(1, updating()), tasks: []Task{a(1, 1, revision(2), made)}, state: modelv1.UpdateState_UPDATE_STATE_COMPLETED},
		{name: "no slots, no wait", svc: svc(0, updating()), state: modelv1.UpdateState_UPDATE_STATE_COMPLETED},
		{name: "a failure pauses", svc: svc(2, updating()), tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Failed)), a(2, 2)},
			state: modelv1.UpdateState_UPDATE_STATE_PAUSED, want: "1: make r2, stop 1"},
		{name: "a completion counts as one under any", svc: svc(2, updating()), tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Complete)), a(2, 2)},
			state: modelv1.UpdateState_UPDATE_STATE_PAUSED, want: "1: make r2, stop 1"},
		{name: "the ratio allows some", svc: svc(2, updating(func(c *modelv1.UpdateConfig) { c.MaxFailureRatio = 0.5 })),
			tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Failed)), a(2, 2)}, want: "1: make r2, stop 1; 2: stop 2"},
		{name: "continue goes on", svc: svc(2, updating(action(modelv1.FailureAction_FAILURE_ACTION_CONTINUE))),
			tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Failed)), a(2, 2)}, want: "1: make r2, stop 1; 2: stop 2"},
		{name: "a failure before the update does not count", svc: svc(2, updating()), want: "1: make r2, stop 1",
			tasks: []Task{a(1, 1, observed(taskstate.Failed)), a(2, 2)}},
		{name: "rollback turns back at once", svc: svc(2, updating(action(modelv1.FailureAction_FAILURE_ACTION_ROLLBACK))),
			tasks: []Task{a(1, 1, revision(2), made, observed(taskstate.Failed)), a(2, 2)},
			state: modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, want: "1: make r1, stop 1"},
		{name: "a paused update moves nothing, and restores with what was there", svc: svc(3, updating(), func(s *modelv1.Service) { s.Update.State = modelv1.UpdateState_UPDATE_STATE_PAUSED }),
			tasks: []Task{a(1, 1), a(2, 2, desired(taskstate.Shutdown), observed(taskstate.Shutdown)), a(3, 3, revision(2), observed(taskstate.Failed))},
			want:  "2: make r1; 3: make r2, stop 3"},
		{name: "a completed slot is updated in its turn", svc: svc(1, restart(onFailure), updating()), tasks: []Task{a(1, 1, observed(taskstate.Complete))}, want: "1: make r2, stop 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.nodes == nil {
				tt.nodes = nodes()
			}
			before := proto.CloneOf(tt.svc)
			got := Plan(Situation{Service: tt.svc, Tasks: tt.tasks, Nodes: tt.nodes, Now: epoch})
			if s := show(got); sorted(s) != sorted(tt.want) {
				t.Errorf("plan %q, want %q", s, tt.want)
			}
			want := time.Time{}
			if tt.wake != 0 {
				want = epoch.Add(time.Duration(tt.wake) * time.Second)
			}
			if !got.Wake.Equal(want) {
				t.Errorf("wakes at %v, want %v", got.Wake, want)
			}
			if s := got.Service.GetUpdate().GetState(); s != tt.state {
				t.Errorf("update %v (%s), want %v", s, got.Service.GetUpdate().GetMessage(), tt.state)
			}
			if !proto.Equal(before, tt.svc) {
				t.Error("the plan wrote into the service it was given")
			}
		})
	}
}

// sorted brings the parts of each move into one order: it is not part of the plan.
func sorted(plan string) string {
	moves := strings.Split(plan, "; ")
	for i, m := range moves {
		at, parts, _ := strings.Cut(m, ": ")
		list := strings.Split(parts, ", ")
		slices.Sort(list)
		moves[i] = at + ": " + strings.Join(list, ", ")
	}
	return strings.Join(moves, "; ")
}

func TestAMisfitIsTold(t *testing.T) {
	t.Parallel()
	got := Plan(Situation{Service: svc(1), Tasks: []Task{a(1, 1)}, Nodes: nodes(), Now: epoch,
		Misfit: func(uint64, id.ID) string { return "node.role==manager" }})
	if len(got.Moves) != 1 || len(got.Moves[0].Decide) != 1 || got.Moves[0].Create != 0 {
		t.Fatalf("plan %q", show(got))
	}
	if why, want := got.Moves[0].Decide[0].Reason, "node dev1 no longer satisfies node.role==manager"; why != want {
		t.Errorf("reason %q, want %q", why, want)
	}
}

func TestAGlobalServiceHasASlotPerNodeThatTakesTasks(t *testing.T) {
	t.Parallel()
	global := svc(0, func(s *modelv1.Service) { s.Spec.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}} })
	for _, tt := range []struct {
		name  string
		tasks []Task
		nodes map[id.ID]Node
		want  string
	}{
		{name: "one each", nodes: nodes(), want: "node 1: make r1; node 2: make r1; node 3: make r1"},
		{name: "none new where none may be", nodes: nodes(unknown, pause, drain)},
		{name: "unknown and paused keep theirs, down and drained do not", nodes: nodes(unknown, pause, drain),
			tasks: []Task{a(1, 0), a(2, 0, on(2)), a(3, 0, on(3))}, want: "node 3: remove 3"},
		{name: "down loses it and gets none elsewhere", nodes: nodes(down),
			tasks: []Task{a(1, 0), a(2, 0, on(2)), a(3, 0, on(3))}, want: "node 1: stop 1"},
		{name: "one that missed an update is caught up with, in its turn", nodes: nodes(), want: "node 1: stop 1",
			tasks: []Task{a(1, 0, revision(7)), a(2, 0, on(2), revision(7)), a(3, 0, on(3))}},
		{name: "back again it gets a new one when the old has ended", nodes: nodes(),
			tasks: []Task{a(1, 0, desired(taskstate.Shutdown), observed(taskstate.Shutdown)), a(2, 0, on(2)), a(3, 0, on(3), desired(taskstate.Shutdown))}, want: "node 1: make r1"},
	} {
		if got := show(Plan(Situation{Service: global, Tasks: tt.tasks, Nodes: tt.nodes, Now: epoch})); got != tt.want {
			t.Errorf("%s: plan %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRollBackSwapsAndAFailedRollbackPauses(t *testing.T) {
	t.Parallel()
	s := svc(2, func(s *modelv1.Service) { s.Current, s.Target, s.Previous = 2, 2, 1 })
	if err := RollBack(s, epoch.UnixNano()-60*second); err != nil {
		t.Fatal(err)
	}
	if s.GetTarget() != 1 || s.GetPrevious() != 2 {
		t.Errorf("target %d, previous %d", s.GetTarget(), s.GetPrevious())
	}
	s.Spec.Rollback = &modelv1.UpdateConfig{Parallelism: 1, FailureAction: modelv1.FailureAction_FAILURE_ACTION_ROLLBACK}
	got := Plan(Situation{Service: s, Nodes: nodes(), Now: epoch, Tasks: []Task{
		a(1, 1, made, observed(taskstate.Failed)), a(2, 2, revision(2))}})
	if st := got.Service.GetUpdate().GetState(); st != modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED {
		t.Errorf("a rollback that failed is %v", st)
	}
	if !Resume(got.Service, epoch.UnixNano()) || got.Service.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED {
		t.Errorf("resumed: %v", got.Service.GetUpdate())
	}
	if err := RollBack(svc(1), 0); err == nil || !strings.Contains(err.Error(), "no previous revision") {
		t.Errorf("nothing to roll back to: %v", err)
	}
}
