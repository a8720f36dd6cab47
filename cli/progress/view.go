package progress

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	barsUpTo   = 20 // above it one line says it all
	errorCells = 75 // of a task's error are shown
)

// A Goal is what is waited for.
type Goal struct {
	// Update: the tasks must be of the revision the service is meant to run, and
	// the update to it over. Else any revision counts.
	Update bool
	// Rollback: going back is what was asked for.
	Rollback bool
	// Version is the service's version from which on messages count.
	Version uint64
}

// A View is a service as the messages of a watch tell it.
type View struct {
	goal    Goal
	service *controlv1.ServiceView
	tasks   map[string]*controlv1.TaskView
}

// NewView returns a view that knows nothing yet.
func NewView(goal Goal) *View { return &View{goal: goal, tasks: map[string]*controlv1.TaskView{}} }

// Apply takes one message in.
func (v *View) Apply(m *controlv1.WatchServiceResponse) {
	if m.GetService() != nil {
		v.service = m.GetService()
	}
	if m.GetComplete() {
		clear(v.tasks)
	}
	for _, t := range m.GetTasks() {
		v.tasks[string(t.GetTask().GetId())] = t
	}
	for _, id := range m.GetGone() {
		delete(v.tasks, string(id))
	}
}

// A Report says how far a service is.
type Report struct {
	// Done of Total tasks run.
	Done, Total uint64
	// Rolling: the service goes back to its previous revision.
	Rolling bool
	// Converged: nothing is left to wait for but time.
	Converged bool
	// Watched: the swarm itself has watched the tasks for failure already.
	Watched bool
	// Fault is why it will not converge by itself. Nil: it may.
	Fault error
	// Slots, one line each.
	Slots []Slot
	// tasks are the ids of those that are done: which have to stay so.
	tasks string
}

// A Slot is one place of a service.
type Slot struct {
	Name  string // "1/2" or a node's
	State modelv1.TaskState
	Error string
	// done: it runs, or has come to a good end that the policy leaves it at.
	// over: no other task follows in the slot.
	done, over bool
}

// Report judges what is known.
func (v *View) Report() Report {
	svc := v.service.GetService()
	if svc == nil || svc.GetMeta().GetVersion() < v.goal.Version {
		return Report{}
	}
	state := svc.GetUpdate().GetState()
	r := Report{Rolling: v.goal.Update && state == modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED}
	surplus := v.slots(&r)
	r.Converged = r.Done >= r.Total && !surplus
	if state != modelv1.UpdateState_UPDATE_STATE_UPDATING && state != modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED {
		r.Fault = r.lastWord()
	}
	if !v.goal.Update {
		return r
	}
	message := svc.GetUpdate().GetMessage()
	switch state {
	case modelv1.UpdateState_UPDATE_STATE_UPDATING, modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:
		r.Converged = false
	case modelv1.UpdateState_UPDATE_STATE_COMPLETED:
		r.Watched = true
	case modelv1.UpdateState_UPDATE_STATE_PAUSED:
		r.Fault = fmt.Errorf("service update paused: %s", message)
	case modelv1.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		r.Fault = fmt.Errorf("service rollback paused: %s", message)
	case modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
		r.Watched = true
		if !v.goal.Rollback && r.Converged {
			r.Fault = fmt.Errorf("service update rolled back: %s", message)
		}
	}
	return r
}

// slots fills r's counts and slots; surplus is true if tasks run that should not.
func (v *View) slots(r *Report) (surplus bool) {
	groups := v.groups()
	keys := slices.SortedFunc(mapKeys(groups), func(a, b string) int { return show.Natural(a, b) })
	wanted := 0
	for _, k := range keys {
		t := groups[k]
		if t.GetTask().GetDesired() > taskstate.Running {
			continue
		}
		wanted++
		s := v.slot(t)
		s.Name = k
		if s.done {
			r.Done++
			r.tasks += string(t.GetTask().GetId())
		}
		r.Slots = append(r.Slots, s)
	}
	r.Total = uint64(wanted)
	if mode := v.service.GetService().GetSpec().GetReplicated(); mode != nil {
		r.Total = mode.GetReplicas()
	} else {
		r.Total = max(r.Total, v.service.GetDesired())
	}
	v.number(r)
	return uint64(wanted) > r.Total
}

// number names the slots of a replicated service "1/3" and adds those that have
// no task yet, each in its place: the others keep their lines.
func (v *View) number(r *Report) {
	if v.service.GetService().GetSpec().GetReplicated() == nil || r.Total > barsUpTo {
		return
	}
	for number := 1; uint64(len(r.Slots)) < r.Total; number++ {
		if name := strconv.Itoa(number); !slices.ContainsFunc(r.Slots, func(s Slot) bool { return s.Name == name }) {
			r.Slots = append(r.Slots, Slot{Name: name})
		}
	}
	slices.SortFunc(r.Slots, func(a, b Slot) int { return show.Natural(a.Name, b.Name) })
	for i := range r.Slots {
		r.Slots[i].Name = strconv.Itoa(i+1) + "/" + strconv.FormatUint(r.Total, 10)
	}
}

// groups returns the task of each slot (or node) that tells most about it.
func (v *View) groups() map[string]*controlv1.TaskView {
	out := map[string]*controlv1.TaskView{}
	for _, t := range v.tasks {
		key := strconv.FormatUint(t.GetTask().GetSlot(), 10)
		if t.GetTask().GetSlot() == 0 {
			key = cmp.Or(t.GetNodeName(), show.ShortID(t.GetTask().GetNode()))
		}
		if have := out[key]; have == nil || v.tells(t, have) {
			out[key] = t
		}
	}
	return out
}

// tells reports whether a says more about its slot than b: one that should run,
// of the right revision, the newest.
func (v *View) tells(a, b *controlv1.TaskView) bool {
	x, y := a.GetTask(), b.GetTask()
	if p, q := x.GetDesired() <= taskstate.Running, y.GetDesired() <= taskstate.Running; p != q {
		return p
	}
	if p, q := v.fresh(x), v.fresh(y); p != q {
		return p
	}
	return cmp.Or(cmp.Compare(x.GetCreatedIndex(), y.GetCreatedIndex()), cmp.Compare(string(x.GetId()), string(y.GetId()))) > 0
}

func (v *View) fresh(t *modelv1.Task) bool {
	svc := v.service.GetService()
	return !v.goal.Update || t.GetRevision() == cmp.Or(svc.GetTarget(), svc.GetCurrent())
}

func (v *View) slot(t *controlv1.TaskView) Slot {
	task := t.GetTask()
	s := Slot{State: task.GetStatus().GetState(), Error: task.GetStatus().GetError()}
	if s.Error == "" && s.State <= taskstate.Pending {
		s.Error = task.GetReason()
	}
	if t.GetUnknownSince() != 0 {
		s.Error = "its node is lost"
	}
	s.over = v.fresh(task) && v.over(task)
	s.done = s.State == taskstate.Running && t.GetUnknownSince() == 0 && v.fresh(task) || s.over && s.State == taskstate.Complete
	return s
}

// stages is how far a state is on the way to running.
var stages = []modelv1.TaskState{taskstate.Pending, taskstate.Assigned, taskstate.Accepted,
	taskstate.Preparing, taskstate.Ready, taskstate.Starting, taskstate.Running}

// Frame lays r out.
func (r Report) Frame() []Line {
	head := "overall progress: "
	switch {
	case r.Total == 0 && !r.Converged:
		return []Line{{Text: head + "waiting for new tasks"}}
	case r.Rolling:
		head += "rolling back update: "
	}
	lines := []Line{{Text: fmt.Sprintf("%s%d out of %d tasks", head, r.Done, r.Total)}}
	if r.Total > barsUpTo || len(r.Slots) > barsUpTo {
		return lines
	}
	width := 0
	for _, s := range r.Slots {
		width = max(width, show.Width(s.Name))
	}
	for _, s := range r.Slots {
		lines = append(lines, s.line(width))
	}
	return lines
}

func (s Slot) line(width int) Line {
	text := strings.Repeat(" ", width-show.Width(s.Name)) + s.Name + ": "
	if s.Error != "" && !s.done {
		return Line{Text: text + show.Cut(strings.Join(strings.Fields(s.Error), " "), errorCells)}
	}
	stage, _ := slices.BinarySearch(stages, s.State)
	if s.State < taskstate.Pending {
		stage = -1
	}
	return Line{Text: fmt.Sprintf("%s%-9s ", text, taskstate.Name(s.State)), Bar: Bar(stage+1, len(stages))}
}

// Missing says what is left, for the error of a wait that took too long.
func (r Report) Missing() string {
	if r.Total == 0 && len(r.Slots) == 0 && !r.Converged {
		return "nothing was heard of it yet"
	}
	text := fmt.Sprintf("%d of %d tasks run", r.Done, r.Total)
	for _, s := range r.Slots {
		if s.Error != "" && !s.done {
			return text + "; " + s.Name + ": " + show.Cut(strings.Join(strings.Fields(s.Error), " "), errorCells)
		}
	}
	return text
}
