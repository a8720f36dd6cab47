package reconcile

import (
	"log/slog"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/orchestrate"
	"github.com/skep-project/skep/manager/reap"
	"github.com/skep-project/skep/manager/schedule"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A draft turns the plans of one service into units.
type draft struct {
	*round
	service *modelv1.Service
	id      id.ID
	// list is all its tasks, by slot and age.
	list []*store.Task
	// decided are the tasks that a move of this round changes.
	decided map[id.ID]bool
	moves   ledger
}

// A seeker is what needs a node: a task to make, or one that found none before.
type seeker struct {
	move int // index of the move that makes it; -1
	task *store.Task
	slot uint64
}

// settle finds nodes for what the moves make and for what still waits, and notes
// one move for each of them and for each task that waited.
func (d *draft) settle(moves []orchestrate.Move, o *outcome) {
	for _, m := range moves {
		for _, dec := range m.Decide {
			d.decided[dec.Task] = true
		}
	}
	places, reasons := d.place(moves, o)
	for _, i := range d.byNode(moves, places) {
		d.move(moves[i], places[i], reasons[i], o)
	}
}

// byNode is the order in which moves are noted: those of one node one after the
// other. They then lie in one page, or two, and the node hears of all of them at once:
// in the order of slots, which go round the nodes, it would hear of one with each page.
func (d *draft) byNode(moves []orchestrate.Move, places []id.ID) []int {
	order, nodes := make([]int, len(moves)), make([]id.ID, len(moves))
	for i, m := range moves {
		order[i], nodes[i] = i, places[i]
		if nodes[i].IsZero() && len(m.Decide) > 0 {
			nodes[i] = d.snap.Task(m.Decide[0].Task).Node
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return id.Compare(nodes[a], nodes[b]) })
	return order
}

// place returns, by move, the node and else the reason of what it makes. What
// waited before is placed first, and its units are noted here.
func (d *draft) place(moves []orchestrate.Move, o *outcome) (places []id.ID, reasons []string) {
	places, reasons = make([]id.ID, len(moves)), make([]string, len(moves))
	if o.global {
		for i, m := range moves {
			if m.Create != 0 {
				places[i], reasons[i] = d.placeOn(m, o)
			}
		}
		return places, reasons
	}
	seekers := make(map[uint64][]seeker) // by revision
	for _, t := range d.list {
		if t.Node.IsZero() && t.Desired <= taskstate.Running && !t.Terminal() && !d.decided[t.ID] {
			seekers[t.Revision] = append(seekers[t.Revision], seeker{move: -1, task: t, slot: t.Slot})
		}
	}
	for i, m := range moves {
		if m.Create != 0 {
			seekers[m.Create] = append(seekers[m.Create], seeker{move: i, slot: m.Slot})
		}
	}
	for number := range seekers {
		slices.SortFunc(seekers[number], compareSeekers)
	}
	for _, number := range slices.Sorted(maps.Keys(seekers)) {
		out := d.theBoard().Place(d.group(revision{d.id, number}), len(seekers[number]))
		o.refused(out)
		for i, s := range seekers[number] {
			var node id.ID
			reason := out.Reason
			if i < len(out.Nodes) {
				node, reason = out.Nodes[i], ""
			}
			if s.move >= 0 {
				places[s.move], reasons[s.move] = node, reason
			} else {
				d.waited(s.task, node, reason)
			}
		}
	}
	return places, reasons
}

// refused takes in that some task found no node.
func (o *outcome) refused(out schedule.Outcome) {
	if out.Reason != "" {
		o.unplaced, o.tight = true, o.tight || out.Tight
	}
}

// placeOn places a task of a global service on its node.
func (d *draft) placeOn(m orchestrate.Move, o *outcome) (id.ID, string) {
	out := d.theBoard().PlaceOn(d.group(revision{d.id, m.Create}), m.Node)
	o.refused(out)
	if len(out.Nodes) == 0 {
		return id.ID{}, out.Reason
	}
	return out.Nodes[0], ""
}

// waited notes that a task which had no node has one now, or why it still has
// none, if that is news.
func (d *draft) waited(t *store.Task, node id.ID, reason string) {
	if node.IsZero() && t.Reason == reason {
		return
	}
	d.moves.add(&logv1.Move{Choices: []*logv1.Choice{{
		Task: t.ID.Bytes(), Version: t.DecidedIndex, Node: d.ground(node), Reason: &reason}}})
}

// ground counts a node for the move that is noted next. It is relied on as the
// operator has it. What the node reports of itself does not move the version: a
// task placed on a node that is just being lost is found lost by the next round.
func (d *draft) ground(node id.ID) uint32 {
	if node.IsZero() {
		return 0
	}
	return d.moves.ground(node, d.nodes[node].version)
}

// move notes one move. node is where its new task goes; zero leaves the task
// pending for the reason.
func (d *draft) move(m orchestrate.Move, node id.ID, reason string, o *outcome) {
	out := &logv1.Move{}
	for _, dec := range m.Decide {
		t := d.snap.Task(dec.Task)
		c := &logv1.Choice{Task: dec.Task.Bytes(), Version: t.DecidedIndex, Desired: dec.Desired}
		if dec.Reason != "" {
			c.Reason = &dec.Reason
		} else if t.Reason != "" && t.Node.IsZero() {
			c.Reason = new(string) // it waits for nothing any more
		}
		out.Choices = append(out.Choices, c)
	}
	// A task of a global service is made on its node or not at all.
	if m.Create != 0 && (!o.global || !node.IsZero()) {
		out.Make = &logv1.Make{Task: id.New().Bytes(), Revision: m.Create, Slot: m.Slot, Node: d.ground(node), Reason: reason}
	}
	if len(out.GetChoices()) > 0 || out.GetMake() != nil {
		d.moves.add(out)
	}
}

// record notes that the service's own record changes.
func (d *draft) record(svc *modelv1.Service) {
	if was, is := d.service.GetUpdate().GetState(), svc.GetUpdate().GetState(); was != is {
		d.Log.Info("service update changed state",
			slog.String("service", svc.GetSpec().GetName()), slog.String("state", is.String()),
			slog.String("message", svc.GetUpdate().GetMessage()))
	}
	d.records.add(d.id, []*logv1.Expect{d.expectService()},
		[]*logv1.Operation{{Op: &logv1.Operation_PutService{PutService: svc}}})
}

// reap notes what may be forgotten of the service.
func (d *draft) reap(o *outcome) {
	plan := reap.Plan(d.remains(o.global))
	for _, x := range plan.Delete {
		if !d.decided[x] {
			d.moves.add(&logv1.Move{Choices: []*logv1.Choice{{Task: x.Bytes(), Version: d.snap.Task(x).DecidedIndex, Forget: true}}})
		}
	}
	for _, x := range plan.Orphan {
		t := d.snap.Task(x)
		status := proto.CloneOf(t.Status())
		status.State, status.At, status.AgentAt = taskstate.Orphaned, d.now.UnixNano(), 0
		status.Error = "its node was lost for too long and has been given up"
		if d.snap.Node(t.Node) == nil {
			status.Error = "its node was removed from the swarm"
		}
		d.plans.add(d.id, []*logv1.Expect{expectTask(t)}, []*logv1.Operation{{Op: &logv1.Operation_Report{
			Report: &logv1.Report{Task: x.Bytes(), Node: t.Node.Bytes(), Status: status}}}})
	}
	for _, number := range plan.Revisions {
		d.plans.add(d.id, []*logv1.Expect{d.expectService()},
			[]*logv1.Operation{remove(store.KindRevision, store.RevisionKey(d.id, number))})
	}
	if plan.Service { // apply drops its claims and revisions with it
		d.records.add(d.id, []*logv1.Expect{d.expectService()},
			[]*logv1.Operation{remove(store.KindService, d.id.Bytes())})
	}
	if o.wake.IsZero() || (!plan.Wake.IsZero() && plan.Wake.Before(o.wake)) {
		o.wake = plan.Wake
	}
}

// remains is what reap must know of the service.
func (d *draft) remains(global bool) reap.Situation {
	s := reap.Situation{
		Nodes: d.reaps, Global: global, Removing: d.service.GetRemoving(),
		Kept:        []uint64{d.service.GetCurrent(), d.service.GetPrevious(), d.service.GetTarget()},
		History:     d.snap.Cluster().GetSpec().GetTaskHistory(),
		MaxAttempts: d.service.GetSpec().GetRestart().GetMaxAttempts(),
		Now:         d.now,
	}
	for r := range d.snap.Revisions(d.id) {
		s.Revisions = append(s.Revisions, r.GetNumber())
	}
	s.Tasks = make([]reap.Task, 0, len(d.list))
	for _, t := range d.list {
		s.Tasks = append(s.Tasks, reap.Task{
			ID: t.ID, Node: t.Node, Revision: t.Revision, Slot: t.Slot, CreatedIndex: t.CreatedIndex,
			Desired: t.Desired, Observed: t.Observed,
		})
	}
	return s
}
