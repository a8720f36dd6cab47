package dispatch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// TestWhatANodeSaysIsShortAndPrintable, and in order it stays as it is.
func TestWhatANodeSaysIsShortAndPrintable(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("ä", 1<<20)
	d := &modelv1.NodeDescription{Hostname: "web\x1b[2J1", Runtime: huge, Trusts: make([]byte, 1<<20), EngineLabels: map[string]string{},
		Resources: &modelv1.Resources{NanoCpus: 4}}
	for i := range 1000 {
		d.EngineLabels[fmt.Sprintf("%04d", i)] = huge[:1000]
	}
	d.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), []byte(huge)))
	status := &modelv1.TaskStatus{State: taskstate.Failed, AgentAt: 7, Error: "exit 1\nat line 2\x07", ExitCode: proto.Int32(0)}
	status.ProtoReflect().SetUnknown(d.ProtoReflect().GetUnknown())
	req := &dispatchv1.SessionRequest{Description: d, Reports: &dispatchv1.Reports{Reports: []*dispatchv1.TaskReport{{Status: status}, {}}}}
	if err := tame(req); err != nil {
		t.Fatal(err)
	}
	got := req.GetDescription()
	if got.GetHostname() != "web?[2J1" || got.GetResources().GetNanoCpus() != 4 || len(got.GetEngineLabels()) != maxLabels || got.GetEngineLabels()["0000"] == "" || proto.Size(got) > 64<<10 {
		t.Errorf("of its description %d bytes and %d labels are left, hostname %q", proto.Size(got), len(got.GetEngineLabels()), got.GetHostname())
	}
	if r := got.GetRuntime(); len(r) > maxName || !strings.HasSuffix(r, "ä…") {
		t.Errorf("its runtime is %q", r)
	}
	st := req.GetReports().GetReports()[0].GetStatus()
	if st.GetError() != "exit 1 at line 2?" || st.ExitCode == nil || st.GetAgentAt() != 7 || st.GetState() != taskstate.Failed || proto.Size(st) > 4<<10 {
		t.Errorf("its report is %v", st)
	}
	again := proto.CloneOf(req)
	if err := tame(again); err != nil || !proto.Equal(req, again) {
		t.Errorf("what is in order does not stay as it is: %v", err)
	}
	for what, bad := range map[string]*dispatchv1.SessionRequest{
		"a boot id":    {Open: &dispatchv1.Open{Hello: &rpcv1.Hello{Boot: make([]byte, maxBoot+1)}}},
		"a farewell":   {Farewell: 77},
		"a state":      {Reports: &dispatchv1.Reports{Reports: []*dispatchv1.TaskReport{{Status: &modelv1.TaskStatus{State: 77}}}}},
		"many reports": {Reports: &dispatchv1.Reports{Reports: make([]*dispatchv1.TaskReport, maxReports+1)}},
	} {
		if err := tame(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want refused", what, err)
		}
	}
}

// TestWhatNodesSayFitsIntoEntries: one unit that does not would end the office of
// every leader that hears it.
func TestWhatNodesSayFitsIntoEntries(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	s := newSlip(time.Now())
	tasks := map[string]bool{}
	for range 4 {
		said := &dispatchv1.NodeReports{Node: nodeN(1).Bytes()}
		for range maxReports {
			task := id.New().Bytes()
			tasks[string(task)] = true
			status := tameStatus(&modelv1.TaskStatus{State: taskstate.Failed, Error: strings.Repeat("e", 2*maxReason)})
			said.Reports = append(said.Reports, &dispatchv1.TaskReport{Task: task, Status: status})
		}
		s.add(said)
	}
	units := cut(append(s.operations(r.Snapshot()), seenOp(nodeN(1), nil, tameDescription(&modelv1.NodeDescription{Hostname: strings.Repeat("h", 1<<20)}))))
	for i, u := range units {
		if n := proto.Size(u); n > 2*unitBytes {
			t.Errorf("unit %d of %d has %d bytes", i+1, len(units), n)
		}
		for _, op := range u.GetOperations() {
			for _, seen := range op.GetReports().GetSeen() {
				delete(tasks, string(seen.GetTask()))
			}
		}
	}
	if len(tasks) != 0 {
		t.Errorf("%d reports are in no unit", len(tasks))
	}
	if small := cut([]*logv1.Operation{{}, {}}); len(small) != 1 || len(small[0].GetOperations()) != 2 {
		t.Errorf("two small operations are %v", small)
	}
}

// TestBatchesGoToTheLeaderInMessagesThatItTakes, in their order and each once.
func TestBatchesGoToTheLeaderInMessagesThatItTakes(t *testing.T) {
	t.Parallel()
	s := &sessions{byNode: map[id.ID]*session{}, dirty: map[*session]struct{}{}, wake: make(chan struct{}, 1)}
	x := &session{node: nodeN(1)}
	status := &modelv1.TaskStatus{Error: strings.Repeat("e", maxReason)}
	var batch []*dispatchv1.TaskReport
	for range 2000 {
		batch = append(batch, &dispatchv1.TaskReport{Task: nodeN(2).Bytes(), Status: status})
	}
	for n := range 7 {
		s.report(x, &dispatchv1.Reports{Sequence: uint64(n), Reports: batch})
	}
	<-s.wake
	batches := 0
	for req := s.whole(time.Now()); req != nil; req = s.news(time.Now()) {
		if proto.Size(req) > maxRelay {
			t.Errorf("a message has %d bytes", proto.Size(req))
		}
		if batches += len(req.GetReports()); req.GetSequence() != uint64(batches) {
			t.Errorf("after %d batches the number is %d", batches, req.GetSequence())
		}
		if waits := len(s.wake) == 1; waits != (batches < 7) {
			t.Errorf("after %d batches it is woken: %v", batches, waits)
		}
		select {
		case <-s.wake:
		default:
		}
	}
	if batches != 7 {
		t.Errorf("%d batches went, want 7", batches)
	}
}

// maxRelay is what is taken of a message (internal/rpc).
const maxRelay = 16 << 20

// TestNothingIsForgottenThatANodeMaySay: what is let through is written out field by
// field, and a new field would be lost.
func TestNothingIsForgottenThatANodeMaySay(t *testing.T) {
	t.Parallel()
	d, status := &modelv1.NodeDescription{}, &modelv1.TaskStatus{}
	fill(d.ProtoReflect())
	fill(status.ProtoReflect())
	if got := tameDescription(d); !proto.Equal(got, d) {
		t.Errorf("of a description %v is left of %v", got, d)
	}
	if got := tameStatus(status); !proto.Equal(got, status) {
		t.Errorf("of a status %v is left of %v", got, status)
	}
}

// fill gives each field of m a value.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
		case f.Kind() == protoreflect.MessageKind:
			fill(m.Mutable(f).Message())
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("x"))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte{1}))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(1))
		default:
			m.Set(f, protoreflect.ValueOfInt64(1))
		}
	}
}
