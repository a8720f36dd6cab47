package dispatch

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
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

// FuzzTame reads what a node says of itself: what is let through is short, can be
// printed, and is let through again as it is.
func FuzzTame(f *testing.F) {
	for _, req := range []*dispatchv1.SessionRequest{
		{Description: &modelv1.NodeDescription{Hostname: "web-1\x1b[2J", Os: strings.Repeat("ö", maxName), EngineLabels: map[string]string{"a\n": "b", "a\t": "c"}, Trusts: make([]byte, 99)}},
		{Reports: &dispatchv1.Reports{Reports: []*dispatchv1.TaskReport{{Status: &modelv1.TaskStatus{State: 3, Error: strings.Repeat("…", maxReason)}}, {Status: &modelv1.TaskStatus{State: 99}}, {}}}},
		{Farewell: 99}, {Open: &dispatchv1.Open{Hello: &rpcv1.Hello{Boot: make([]byte, 99)}}},
	} {
		text, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &dispatchv1.SessionRequest{}
		if proto.Unmarshal(data, req) != nil || tame(req) != nil {
			return
		}
		d := req.GetDescription()
		for name, value := range d.GetEngineLabels() {
			if !plain(name, maxName) || !plain(value, maxName) {
				t.Errorf("label %q=%q is let through", name, value)
			}
		}
		if !plain(d.GetHostname(), maxName) || len(d.GetEngineLabels()) > maxLabels || len(d.GetTrusts()) > maxDigest {
			t.Errorf("%v is let through", d)
		}
		for _, r := range req.GetReports().GetReports() {
			if s := r.GetStatus(); !plain(s.GetError(), maxReason) {
				t.Errorf("%v is let through", s)
			}
		}
		again := proto.CloneOf(req)
		if err := tame(again); err != nil || !proto.Equal(req, again) {
			t.Errorf("%v is not let through again: %v, %v", req, again, err)
		}
	})
}

// plain reports whether text is short and can be printed.
func plain(text string, most int) bool {
	return len(text) <= most && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
