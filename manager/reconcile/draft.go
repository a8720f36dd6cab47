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
	tasks   map[id.ID]*store.Task
	// list is the same tasks, by slot and id.
	list []*store.Task
	// decided are the tasks that a move of this round changes.
	decided map[id.ID]bool
}

// A seeker is what needs a node: a task to make, or one that found none before.
type seeker struct {
	move int // index of the move that makes it; -1
	task *store.Task
	slot uint64
}

// moves finds nodes for what the moves make and for what still waits, and notes
// one unit per move and per task that waited.
func (d *draft) moves(moves []orchestrate.Move, o *outcome) {
	for _, m := range moves {
		for _, dec := range m.Decide {
			d.decided[dec.Task] = true
		}
	}
	places, reasons := d.place(moves, o)
	for i, m := range moves {
		d.move(m, places[i], reasons[i], o)
	}
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
	expects := []*logv1.Expect{expectTask(t)}
	if !node.IsZero() {
		expects = append(expects, d.expectNode(node))
	}
	d.round.moves.add(d.id, expects, []*logv1.Operation{decide(&logv1.Decide{
		Task: t.ID.Bytes(), Node: node.Bytes(), Reason: &reason})})
}

// move notes the unit of one move. node is where its new task goes; zero leaves
// the task pending for the reason.
func (d *draft) move(m orchestrate.Move, node id.ID, reason string, o *outcome) {
	expects := []*logv1.Expect{d.expectService()}
	var ops []*logv1.Operation
	for _, dec := range m.Decide {
		t := d.tasks[dec.Task]
		expects = append(expects, expectTask(t))
		op := &logv1.Decide{Task: dec.Task.Bytes(), Desired: dec.Desired}
		if dec.Reason != "" {
			op.Reason = &dec.Reason
		} else if t.Reason != "" && t.Node.IsZero() {
			op.Reason = new(string) // it waits for nothing any more
		}
		ops = append(ops, decide(op))
	}
	// A task of a global service is made on its node or not at all.
	if m.Create != 0 && (!o.global || !node.IsZero()) {
		if !node.IsZero() {
			expects = append(expects, d.expectNode(node))
		}
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_CreateTask{CreateTask: &modelv1.Task{
			Id: id.New().Bytes(), Service: d.id.Bytes(), Revision: m.Create, Slot: m.Slot,
			Node: node.Bytes(), Desired: taskstate.Running, Reason: reason,
		}}})
	}
	if len(ops) > 0 {
		d.round.moves.add(d.id, expects, ops)
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
			d.round.moves.add(d.id, []*logv1.Expect{expectTask(d.tasks[x])},
				[]*logv1.Operation{remove(store.KindTask, x.Bytes())})
		}
	}
	for _, x := range plan.Orphan {
		t := d.tasks[x]
		status := proto.CloneOf(t.Status())
		status.State, status.At, status.AgentAt = taskstate.Orphaned, d.now.UnixNano(), 0
		status.Error = "its node was lost for too long and has been given up"
		if d.snap.Node(t.Node) == nil {
			status.Error = "its node was removed from the swarm"
		}
		d.round.moves.add(d.id, []*logv1.Expect{expectTask(t)}, []*logv1.Operation{{Op: &logv1.Operation_Report{
			Report: &logv1.Report{Task: x.Bytes(), Node: t.Node.Bytes(), Status: status}}}})
	}
	for _, number := range plan.Revisions {
		d.round.moves.add(d.id, []*logv1.Expect{d.expectService()},
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
