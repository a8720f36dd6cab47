package dispatch

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

const (
	// pace is the least time between two commits of reports while there are more to
	// come: each is a write to every manager's disk, however little is in it, and has
	// the leader plan.
	pace = 60 * time.Millisecond
	// linger is for how long what a task only passes through waits for company. A
	// container that is up within it is reported once.
	linger = 50 * time.Millisecond
	// maxSlip is how many tasks a slip is of at most, but for what came with the
	// last of them.
	maxSlip = 2000
)

// A slip is what nodes reported on its way to one commit: of each task the
// greatest state, which is what apply would make of all of them (R5). It is not
// safe for concurrent use.
type slip struct {
	since  time.Time // its first report came
	urgent bool      // it holds an end, or that a task runs: plans wait for these
	tasks  int
	nodes  map[id.ID]*nodeSlip
	order  []*nodeSlip
	acks   []ack
}

// nodeSlip is what one node reported.
type nodeSlip struct {
	node    id.ID
	reports []*dispatchv1.TaskReport
	at      map[id.ID]int // where in the reports a task is
	batches int
}

// ack is what a line is told once the slip is committed.
type ack struct {
	line     *line
	sequence uint64
}

func newSlip(now time.Time) *slip { return &slip{since: now, nodes: make(map[id.ID]*nodeSlip)} }

// add takes in what a node reported. What has no id is dropped, as apply would.
func (s *slip) add(r *dispatchv1.NodeReports) {
	node, err := id.FromBytes(r.GetNode())
	if err != nil {
		return
	}
	n := s.nodes[node]
	if n == nil {
		n = &nodeSlip{node: node, at: make(map[id.ID]int)}
		s.nodes[node], s.order = n, append(s.order, n)
	}
	// A session is read no further with maxHeld batches unacknowledged; that must
	// not be for the sake of a pause.
	if n.batches++; n.batches >= maxHeld/2 {
		s.urgent = true
	}
	for _, tr := range r.GetReports() {
		task, err := id.FromBytes(tr.GetTask())
		if err != nil || tr.GetStatus() == nil {
			continue
		}
		if n.join(task, tr) {
			s.tasks++
		}
		s.urgent = s.urgent || tr.GetStatus().GetState() >= taskstate.Running
	}
}

// join takes in one report, and reports whether it is the first of its task.
func (n *nodeSlip) join(task id.ID, tr *dispatchv1.TaskReport) bool {
	if i, ok := n.at[task]; ok {
		if n.reports[i].GetStatus().GetState() < tr.GetStatus().GetState() {
			n.reports[i] = tr
		}
		return false
	}
	n.at[task] = len(n.reports)
	n.reports = append(n.reports, tr)
	return true
}

// due returns when s is to be committed if the last commit was begun at last and so
// many tasks are under way: reports wait for others only while there are some to
// come.
func (s *slip) due(last time.Time, underWay int) time.Time {
	at, paced := s.since, last.Add(pace)
	if s.urgent && s.tasks >= underWay {
		return at
	}
	if !s.urgent {
		at = at.Add(linger)
	}
	if paced.After(at) {
		return paced
	}
	return at
}

// operations returns the reports that would change something. Leaving out what is
// known already loses nothing. A task that this replica does not know, or not
// where it is placed, is no reason: another manager may have applied the entry
// before the leader has, and its agent may have been quick. Apply drops what is
// still unknown then.
func (s *slip) operations(snap *store.Snapshot) []*logv1.Operation {
	known := &logv1.Reports{At: s.since.UnixNano()}
	var ops []*logv1.Operation
	for _, n := range s.order {
		unknown := &logv1.Reports{Node: n.node.Bytes(), At: known.GetAt()}
		for _, tr := range n.reports {
			task, _ := id.FromBytes(tr.GetTask()) // add has read it
			switch t := snap.Task(task); {
			case t == nil || t.Node.IsZero():
				unknown.Seen = append(unknown.Seen, seenOf(tr, known.GetAt()))
			case t.Node == n.node && t.Observed < tr.GetStatus().GetState():
				known.Seen = append(known.Seen, seenOf(tr, known.GetAt()))
			}
		}
		ops = appendReports(ops, unknown)
	}
	return appendReports(ops, known)
}

// appendReports adds what r says, as operations that are small enough for units.
func appendReports(ops []*logv1.Operation, r *logv1.Reports) []*logv1.Operation {
	from, size := 0, 0
	add := func(to int) {
		if from < to {
			part := &logv1.Reports{Node: r.GetNode(), At: r.GetAt(), Seen: r.GetSeen()[from:to]}
			ops = append(ops, &logv1.Operation{Op: &logv1.Operation_Reports{Reports: part}})
		}
		from, size = to, 0
	}
	for i, seen := range r.GetSeen() {
		if size >= unitBytes/2 {
			add(i)
		}
		size += proto.Size(seen)
	}
	add(len(r.GetSeen()))
	return ops
}

// seenOf is a report as it is in the log, with times from at on.
func seenOf(tr *dispatchv1.TaskReport, at int64) *logv1.Seen {
	st := tr.GetStatus()
	if st.GetError() != "" || st.GetAgentAt() == 0 {
		return &logv1.Seen{Task: tr.GetTask(), Status: st}
	}
	return &logv1.Seen{Task: tr.GetTask(), State: st.GetState(), AgentAt: st.GetAgentAt() - at, ExitCode: st.ExitCode}
}

// acknowledge tells the lines that all of s is committed.
func (s *slip) acknowledge() {
	for _, a := range s.acks {
		a.line.acknowledge(a.sequence)
	}
}
