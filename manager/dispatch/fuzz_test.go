package dispatch

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// FuzzReports reads what a node says of its tasks: of one task one report goes on, the
// greatest, and a node speaks for itself only.
func FuzzReports(f *testing.F) {
	task := id.New().Bytes()
	text, err := proto.Marshal(&dispatchv1.NodeReports{Reports: []*dispatchv1.TaskReport{
		{Task: task, Status: &modelv1.TaskStatus{State: 3}}, {Task: task, Status: &modelv1.TaskStatus{State: 9}}, {Task: task[:3]}, {},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	self := id.New()
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &dispatchv1.NodeReports{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		r.Node = self.Bytes()
		s := newSlip(time.Unix(1, 0))
		s.add(r)
		s.add(r)
		n := s.nodes[self]
		if n == nil || len(s.nodes) != 1 || len(n.at) != len(n.reports) || s.tasks != len(n.reports) {
			t.Fatalf("%d nodes, %d tasks: %+v", len(s.nodes), s.tasks, n)
		}
		_ = aheadOf(int64(len(data))<<40, time.Unix(1, 0))
	})
}
