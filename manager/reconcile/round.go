package reconcile

import (
	"log/slog"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/orchestrate"
	"github.com/skep-project/skep/manager/reap"
	"github.com/skep-project/skep/manager/schedule"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A round is one snapshot, what was planned on it so far, and the units that say
// so.
type round struct {
	Config
	snap   *store.Snapshot
	now    time.Time
	nodes  map[id.ID]*facts
	stand  map[id.ID]orchestrate.Node
	reaps  map[id.ID]reap.Node
	groups map[revision]*schedule.Group
	board  *schedule.Board // made when first needed

	// plans are what the services' tasks become, records what the services do.
	plans, records batch
	size           int // units of plans that make a round
	dropped        int // units that conflicted
}

// A revision names one task template.
type revision struct {
	service id.ID
	number  uint64
}

// An outcome is what the loop must remember of a service between rounds.
type outcome struct {
	wake            time.Time
	unplaced, tight bool
	global          bool
}

func newRound(cfg Config, snap *store.Snapshot, w *watcher) *round {
	r := &round{Config: cfg, snap: snap, now: w.now, nodes: w.nodes, groups: make(map[revision]*schedule.Group), size: roundUnits}
	if len(w.dirty) == 0 {
		return r
	}
	r.stand = make(map[id.ID]orchestrate.Node, len(w.nodes))
	r.reaps = make(map[id.ID]reap.Node, len(w.nodes))
	for node, f := range w.nodes {
		r.stand[node], r.reaps[node] = f.stand, f.reap
	}
	return r
}

// roundUnits is how many units make a round: with so many it is committed, and what
// services are left are planned in the next. So however much there is to do, nodes begin
// with the first of it while the rest is planned, and a plan has a bounded size.
const roundUnits = 100_000

// services plans dirty services until the round has its size, and returns how many.
func (r *round) services(w *watcher) int {
	dirty := w.takeDirty()
	for i, service := range dirty {
		if r.plans.units >= r.size {
			w.leave(dirty[i:])
			return i
		}
		w.planned(service, r.service(service))
	}
	return len(dirty)
}

// service plans one service and notes its units.
func (r *round) service(service id.ID) outcome {
	svc := r.snap.Service(service)
	if svc == nil {
		return outcome{}
	}
	o := outcome{global: svc.GetSpec().GetGlobal() != nil}
	d := draft{round: r, service: svc, id: service, decided: make(map[id.ID]bool)}
	d.moves.service, d.moves.version = service, svc.GetMeta().GetVersion()
	d.list = slices.Collect(r.snap.TasksByService(service))
	tasks := make([]orchestrate.Task, 0, len(d.list))
	for _, t := range d.list {
		tasks = append(tasks, orchestrate.Task{
			ID: t.ID, Node: t.Node, Revision: t.Revision, Slot: t.Slot, CreatedIndex: t.CreatedIndex,
			Desired: t.Desired, Observed: t.Observed,
			CreatedAt: t.CreatedAt, DesiredAt: t.DesiredAt, ObservedAt: t.ObservedAt,
			HostLost: r.hostLost(t),
		})
	}
	plan := orchestrate.Plan(orchestrate.Situation{
		Service: svc, Tasks: tasks, Nodes: r.stand, Now: r.now,
		Misfit: func(number uint64, node id.ID) string { return r.misfit(revision{service, number}, node) },
	})
	o.wake = plan.Wake
	d.settle(plan.Moves, &o)
	if plan.Service != nil {
		d.record(plan.Service)
	}
	d.reap(&o)
	for _, m := range d.moves.pages {
		r.plans.put(service, store.Parcel{Moves: m})
	}
	return o
}

// hostLost reports whether the reboot of its host ended a task: it was made
// before, its end was told after, and nobody saw how it ended. Of a task that
// the host started only then and whose end nobody saw it is said as well, once.
func (r *round) hostLost(t *store.Task) bool {
	f := r.nodes[t.Node]
	return f != nil && t.Observed == modelv1.TaskState_TASK_STATE_FAILED && t.Status().ExitCode == nil &&
		t.CreatedAt < f.rebooted && t.ObservedAt >= f.rebooted
}

// misfit says which constraint of the revision the node does not satisfy.
func (r *round) misfit(rev revision, node id.ID) string {
	g := r.group(rev)
	if len(g.Constraints) == 0 {
		return ""
	}
	f := r.nodes[node]
	if f == nil {
		return ""
	}
	return g.Misfit(&f.place)
}

// group returns what tasks of the revision ask of a node.
func (r *round) group(rev revision) *schedule.Group {
	if g, ok := r.groups[rev]; ok {
		return g
	}
	g, err := schedule.GroupOf(rev.service, r.snap.Revision(rev.service, rev.number).GetTemplate())
	if err != nil {
		// Control has parsed it once, so this is a record of a version that knew
		// more. The zero constraint matches nothing: better no task than one astray.
		r.Log.Error("placement not understood, no task will be placed",
			slog.String("service", rev.service.String()), slog.Any("err", err))
		g.Constraints = append(g.Constraints, schedule.Constraint{})
	}
	r.groups[rev] = &g
	return &g
}

// troubleWindow is for how long a failure counts against a node.
const troubleWindow = 5 * time.Minute

// theBoard returns the board with all that runs on it.
func (r *round) theBoard() *schedule.Board {
	if r.board != nil {
		return r.board
	}
	nodes := make([]schedule.Node, 0, len(r.nodes))
	for _, f := range r.nodes {
		nodes = append(nodes, f.place)
	}
	r.board = schedule.NewBoard(nodes)
	since := r.now.Add(-troubleWindow).UnixNano()
	for t := range r.snap.Tasks() {
		switch {
		case t.Node.IsZero():
		case !t.Terminal():
			g := r.group(revision{t.Service, t.Revision})
			r.board.Put(t.Node, t.Service, g.Reserve, t.Desired <= taskstate.Running)
		case t.ObservedAt > since && (t.Observed == modelv1.TaskState_TASK_STATE_FAILED || t.Observed == modelv1.TaskState_TASK_STATE_REJECTED):
			if t.Desired <= taskstate.Running || t.ObservedAt <= t.DesiredAt {
				r.board.Trouble(t.Node, t.Service)
			}
		}
	}
	return r.board
}
