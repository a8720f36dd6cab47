package dispatch

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// saying is what a node reports of its tasks.
func saying(node byte, state modelv1.TaskState, tasks ...byte) *dispatchv1.NodeReports {
	r := &dispatchv1.NodeReports{Node: nodeN(node).Bytes()}
	for _, t := range tasks {
		r.Reports = append(r.Reports, &dispatchv1.TaskReport{Task: nodeN(t).Bytes(), Status: &modelv1.TaskStatus{State: state, AgentAt: epoch.UnixNano() + 5}})
	}
	return r
}

func slipOf(reports ...*dispatchv1.NodeReports) *slip {
	s := newSlip(epoch)
	for _, r := range reports {
		s.add(r)
	}
	return s
}

// TestReportsWaitOnlyForOthers: for a while those of tasks that only come through,
// and for the pace of commits those that are not the last.
func TestReportsWaitOnlyForOthers(t *testing.T) {
	t.Parallel()
	long, now := epoch.Add(-time.Minute), epoch.Add(-time.Millisecond)
	many := make([]*dispatchv1.NodeReports, maxHeld/2)
	for i := range many {
		many[i] = saying(1, taskstate.Preparing, 10)
	}
	for _, tt := range []struct {
		name     string
		s        *slip
		last     time.Time
		underWay int
		want     time.Time
	}{
		{"one runs, the others are to come, and nothing was written lately", slipOf(saying(1, taskstate.Running, 10)), long, 5, epoch},
		{"one of several runs", slipOf(saying(1, taskstate.Running, 10)), now, 5, now.Add(pace)},
		{"the only one runs", slipOf(saying(1, taskstate.Running, 10)), now, 1, epoch},
		{"the last two have ended", slipOf(saying(1, taskstate.Shutdown, 10), saying(2, taskstate.Failed, 11)), now, 2, epoch},
		{"twice the same of two", slipOf(saying(1, taskstate.Running, 10), saying(1, taskstate.Failed, 10)), now, 2, now.Add(pace)},
		{"one comes through", slipOf(saying(1, taskstate.Preparing, 10)), long, 1, epoch.Add(linger)},
		{"so many that their session stands", slipOf(many...), long, 1, epoch},
	} {
		if got := tt.s.due(tt.last, tt.underWay); !got.Equal(tt.want) {
			t.Errorf("%s: due %v after the first came, want %v", tt.name, got.Sub(epoch), tt.want.Sub(epoch))
		}
	}
}

// TestASlipIsOfTheGreatestStates, and what the leader has seen to be right needs no
// node in the log.
func TestASlipIsOfTheGreatestStates(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.service()
	r.task(10, 1)
	r.task(12, 2)
	s := slipOf(saying(1, taskstate.Preparing, 10, 12, 60), saying(1, taskstate.Running, 10, 60), saying(1, taskstate.Starting, 10),
		&dispatchv1.NodeReports{Node: []byte("no id")}, &dispatchv1.NodeReports{Node: nodeN(1).Bytes(), Reports: []*dispatchv1.TaskReport{{Task: []byte("none")}}})
	ops := s.operations(r.Snapshot())
	if len(ops) != 2 || s.tasks != 3 {
		t.Fatalf("%d operations of %d tasks, want two of three", len(ops), s.tasks)
	}
	unknown, known := ops[0].GetReports(), ops[1].GetReports()
	check := func(name string, got *logv1.Reports, node []byte, task byte) {
		if string(got.GetNode()) != string(node) || len(got.GetSeen()) != 1 || string(got.GetSeen()[0].GetTask()) != string(nodeN(task).Bytes()) ||
			got.GetSeen()[0].GetState() != taskstate.Running {
			t.Errorf("%s: %v", name, got)
		}
	}
	check("a task nobody knows here", unknown, nodeN(1).Bytes(), 60)
	check("a task of that node", known, nil, 10)
	r.do(ops...)
	r.task(60, 1)
	if got := r.Snapshot().Task(nodeN(10)); got.Observed != taskstate.Running || got.AgentAt != epoch.UnixNano()+5 {
		t.Errorf("task 10: %v since %d", got.Observed, got.AgentAt)
	}
	for _, x := range []byte{12, 60} { // another node's; one that was not there
		if got := r.Snapshot().Task(nodeN(x)).Observed; got != taskstate.Assigned {
			t.Errorf("task %d: %v, want it untouched", x, got)
		}
	}
	if ops := s.operations(r.Snapshot()); len(ops) != 1 || len(ops[0].GetReports().GetSeen()) != 1 {
		t.Errorf("the same again: %v, want task 60 only", ops)
	}
}

// TestASlipSaysHowATaskEnded: all that an agent says of a task is in the store in the
// end, and it takes few bytes of the log.
func TestASlipSaysHowATaskEnded(t *testing.T) {
	t.Parallel()
	at := epoch.UnixNano() + 5
	for name, tt := range map[string]struct {
		said *modelv1.TaskStatus
		most int // bytes of the log
	}{
		"it runs":            {&modelv1.TaskStatus{State: taskstate.Running, AgentAt: at}, 30},
		"it ended":           {&modelv1.TaskStatus{State: taskstate.Complete, AgentAt: at, ExitCode: proto.Int32(0)}, 30},
		"it was killed":      {&modelv1.TaskStatus{State: taskstate.Shutdown, AgentAt: at, ExitCode: proto.Int32(137)}, 30},
		"by a strange exit":  {&modelv1.TaskStatus{State: taskstate.Failed, AgentAt: at, ExitCode: proto.Int32(-1)}, 30},
		"it could not start": {&modelv1.TaskStatus{State: taskstate.Rejected, AgentAt: at, Error: "no such image"}, 60},
		"at an unknown time": {&modelv1.TaskStatus{State: taskstate.Failed, ExitCode: proto.Int32(1)}, 40},
	} {
		r := newReplica(t)
		r.service()
		r.task(10, 1)
		s := slipOf(&dispatchv1.NodeReports{Node: nodeN(1).Bytes(), Reports: []*dispatchv1.TaskReport{{Task: nodeN(10).Bytes(), Status: tt.said}}})
		ops := s.operations(r.Snapshot())
		r.do(ops...)
		got := proto.CloneOf(r.Snapshot().Task(nodeN(10)).Status())
		got.At = 0 // the log's
		if !proto.Equal(got, tt.said) {
			t.Errorf("%s: the store has %v, want %v", name, got, tt.said)
		}
		if n := proto.Size(ops[0].GetReports().GetSeen()[0]); n > tt.most {
			t.Errorf("%s: it takes %d bytes of the log, want at most %d", name, n, tt.most)
		}
	}
}
