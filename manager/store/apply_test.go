package store

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

var (
	node1, node2 = num(1), num(2)
	web, db      = num(10), num(11)
	task1, task2 = num(100), num(101)
)

// small is a store with two nodes and two services.
func small(t testing.TB) *Store {
	s := New()
	must(t, s, opNode(node1), opNode(node2), opService(web, "web"), opService(db, "db"), opRevision(web, 1))
	return s
}

// TestWhetherAClusterAsksForFIPSModeIsSettledAtItsFounding: nobody can take it back,
// and nodes that came in without it are not made to lie.
func TestWhetherAClusterAsksForFIPSModeIsSettledAtItsFounding(t *testing.T) {
	t.Parallel()
	for _, fips := range []bool{false, true} {
		s := New()
		put := func(fips bool) *logv1.Operation {
			return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: num(1).Bytes(), Fips: fips}}}
		}
		must(t, s, put(fips))
		refused(t, s, "a change of FIPS 140-3 mode", put(!fips))
		must(t, s, put(fips))
	}
}

func TestAnObjectKnowsWhenItWasWritten(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s)
	must(t, s, opService(web, "web"))
	got := s.Snapshot().Service(web).GetMeta()
	want := &modelv1.Meta{Version: 3, CreatedIndex: 1, CreatedAt: 1e9, UpdatedAt: 3e9}
	if !proto.Equal(got, want) {
		t.Errorf("meta = %v, want %v", got, want)
	}
}

func TestLogTimeNeverFalls(t *testing.T) {
	t.Parallel()
	s := New()
	s.ApplyProto(1, 50, nil)
	s.ApplyProto(2, 20, nil)
	if got := s.Snapshot().LogTime().UnixNano(); got != 50 {
		t.Errorf("log time = %d, want 50", got)
	}
	s.ApplyProto(7, 0, nil)
	if got := s.Snapshot(); got.LogTime().UnixNano() != 50 || got.Index() != 7 {
		t.Errorf("after an entry without a clock: time %v index %d", got.LogTime(), got.Index())
	}
}

func TestAnExpectationHoldsOrTheUnitIsDropped(t *testing.T) {
	t.Parallel()
	s := small(t)
	version := s.Snapshot().Version(KindService, web.Bytes())
	for _, tt := range []struct {
		name   string
		expect *logv1.Expect
		ok     bool
	}{
		{"the version it has", &logv1.Expect{Kind: KindService, Key: web.Bytes(), Version: version}, true},
		{"a version it does not have", &logv1.Expect{Kind: KindService, Key: web.Bytes(), Version: version + 9}, false},
		{"that it is absent, but it is there", &logv1.Expect{Kind: KindService, Key: web.Bytes()}, false},
		{"that it is absent", &logv1.Expect{Kind: KindService, Key: num(99).Bytes()}, true},
		{"that it is there, but it is absent", &logv1.Expect{Kind: KindService, Key: num(99).Bytes(), Version: 1}, false},
		{"that a claim is absent", &logv1.Expect{Kind: KindClaim, Key: ClaimKey("x", "y")}, true},
		{"that a member is absent", &logv1.Expect{Kind: KindMember, Key: MemberKey(4)}, true},
		{"a revision", &logv1.Expect{Kind: KindRevision, Key: RevisionKey(web, 1), Version: version}, true},
	} {
		next := s.Snapshot().Index() + 1
		u := unit(opNode(node2))
		u.Expects = []*logv1.Expect{tt.expect}
		err := s.ApplyProto(next, 0, []*logv1.Transaction{transaction(u)})[0]
		if (err == nil) != tt.ok {
			t.Errorf("expecting %s: %v, want ok %v", tt.name, err, tt.ok)
		}
		if err != nil && !errdefs.IsConflict(err) {
			t.Errorf("expecting %s: %v is no conflict", tt.name, err)
		}
	}
}

func TestTransactionsOfOneEntryStandOrFallAlone(t *testing.T) {
	t.Parallel()
	s := small(t)
	errs := s.ApplyProto(2, 0, []*logv1.Transaction{
		transaction(unit(opClaim("k", "a", web))),
		transaction(unit(opClaim("k", "a", db))),
		transaction(unit(opClaim("k", "b", db)), unit(opClaim("k", "a", db)), unit(opClaim("k", "c", db), opClaim("k", "a", db))),
	})
	if errs[0] != nil {
		t.Errorf("the first: %v", errs[0])
	}
	var c *Conflict
	if !errors.As(errs[1], &c) || c.Kind != KindClaim {
		t.Errorf("the rival: %v, want a conflict on the claim", errs[1])
	}
	var p *Partial
	if !errors.As(errs[2], &p) || !slices.Equal(p.Units, []int{1, 2}) || len(p.Conflicts) != 2 {
		t.Errorf("the mixed one: %v, want units 1 and 2 dropped", errs[2])
	}
	snap := s.Snapshot()
	if o, _ := snap.Holder("k", "b"); o != db {
		t.Errorf("claim b belongs to %v, want db", o)
	}
	if _, held := snap.Holder("k", "c"); held {
		t.Error("a dropped unit left its first claim")
	}
}

func TestARequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	s := small(t)
	tx := transaction(unit(opService(num(50), "new")))
	tx.Request = &logv1.Request{Caller: "user:a", Id: []byte("r"), Hash: []byte("h"), Objects: [][]byte{num(50).Bytes()}}
	again := transaction(unit(opService(num(51), "other")))
	again.Request = &logv1.Request{Caller: "user:a", Id: []byte("r"), Hash: []byte("h2")}
	other := transaction(unit(opService(num(52), "third")))
	other.Request = &logv1.Request{Caller: "user:b", Id: []byte("r"), Hash: []byte("h")}
	errs := s.ApplyProto(2, 5, []*logv1.Transaction{tx, again, other})
	var d *Duplicate
	if errs[0] != nil || errs[2] != nil || !errors.As(errs[1], &d) {
		t.Fatalf("errors = %v, want only the second to be a duplicate", errs)
	}
	if !slices.Equal(d.Objects, []id.ID{num(50)}) || string(d.Hash) != "h" || d.Index != 2 {
		t.Errorf("duplicate = %+v", d)
	}
	if s.Snapshot().Service(num(51)) != nil {
		t.Error("the duplicate was applied")
	}
	now := s.Snapshot().LogTime().UnixNano()
	if a := s.Snapshot().Answered("user:a", []byte("r")); a.GetIndex() != 2 || a.GetAt() != now {
		t.Errorf("answered = %v, want index 2 at %d", a, now)
	}
}

// TestAnswersAreForgottenAfterADay, but for the newest: that a day has gone by may
// be no more than a leader's clock that was wrong.
func TestAnswersAreForgottenAfterADay(t *testing.T) {
	t.Parallel()
	s := New()
	caller := func(n uint64) *logv1.Request { return &logv1.Request{Caller: "c", Id: num(n).Bytes()} }
	var txs []*logv1.Transaction
	for n := range uint64(minAnswered + 2) {
		txs = append(txs, &logv1.Transaction{Request: caller(n + 1), Units: []*logv1.Unit{{}}})
	}
	s.ApplyProto(1, 1, txs)
	for index, tt := range []struct {
		clock int64
		want  int
	}{{1 + maxAnsweredAge, minAnswered + 2}, {2 + maxAnsweredAge, minAnswered}, {9 * maxAnsweredAge, minAnswered}} {
		s.ApplyProto(uint64(2+index), tt.clock, nil)
		snap := s.Snapshot()
		if got := snap.state.answered.len(); got != tt.want {
			t.Errorf("at %d %d answers are kept, want %d", tt.clock, got, tt.want)
		}
		if newest := caller(minAnswered + 2); snap.Answered("c", newest.GetId()) == nil {
			t.Errorf("at %d the newest answer is forgotten", tt.clock)
		}
	}
	if s.Snapshot().Answered("c", num(2).Bytes()) != nil {
		t.Error("the oldest answers outlived their day")
	}
}

func TestTheOldestAnswersAreForgottenBeyondTheBound(t *testing.T) {
	t.Parallel()
	s := New()
	caller := func(n uint64) *logv1.Request { return &logv1.Request{Caller: "c", Id: num(n).Bytes()} }
	var txs []*logv1.Transaction
	for n := range uint64(maxAnswered) {
		txs = append(txs, &logv1.Transaction{Request: caller(n + 1), Units: []*logv1.Unit{{}}})
	}
	s.ApplyProto(1, 1, txs)
	s.ApplyProto(2, 1, []*logv1.Transaction{{Request: caller(maxAnswered + 1), Units: []*logv1.Unit{{}}}})
	snap := s.Snapshot()
	if snap.state.answered.len() != maxAnswered || snap.Answered("c", num(1).Bytes()) != nil || snap.Answered("c", num(maxAnswered+1).Bytes()) == nil {
		t.Errorf("%d answers are kept, want %d without the oldest", snap.state.answered.len(), maxAnswered)
	}
}

func TestAConflictingRequestIsNotAnswered(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opClaim("k", "a", web))
	tx := transaction(unit(opClaim("k", "a", db)))
	tx.Request = &logv1.Request{Caller: "c", Id: []byte("r")}
	if err := s.ApplyProto(3, 0, []*logv1.Transaction{tx})[0]; !errdefs.IsConflict(err) {
		t.Fatalf("err = %v, want a conflict", err)
	}
	must(t, s, opRelease("k", "a", web))
	if err := s.ApplyProto(5, 0, []*logv1.Transaction{tx})[0]; err != nil {
		t.Errorf("the retry after the conflict is gone: %v", err)
	}
}

func TestAnEntryOfALaterVersionStopsTheStore(t *testing.T) {
	t.Parallel()
	unknownField := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append(data, 0xfa, 0x7f, 1, 'x') // field 2047, bytes
	}
	good, err := proto.Marshal(transaction(unit(opService(num(50), "x"))))
	if err != nil {
		t.Fatal(err)
	}
	var emptyOp logv1.Transaction
	emptyOp.Units = []*logv1.Unit{{Operations: []*logv1.Operation{{}}}}
	badKind := transaction(unit(opDelete(99, nil)))
	for name, data := range map[string][]byte{
		"not a message":                  {0xff},
		"an unknown transaction field":   unknownField(transaction()),
		"an operation without a kind":    marshal(t, &emptyOp),
		"a delete of an unknown kind":    marshal(t, badKind),
		"an expect of an unknown kind":   marshal(t, transaction(&logv1.Unit{Expects: []*logv1.Expect{{Kind: 77}}})),
		"a transaction cut in the midst": good[:len(good)-1],
	} {
		s := small(t)
		errs := s.Apply(2, 0, [][]byte{good, data})
		for i, err := range errs {
			var u *Unreadable
			if !errors.As(err, &u) || u.Index != 2 {
				t.Errorf("%s: error %d = %v, want Unreadable at 2", name, i, err)
			}
		}
		if s.Snapshot().Index() != 1 || s.Snapshot().Service(num(50)) != nil {
			t.Errorf("%s: the entry was applied in part", name)
		}
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestATaskIsPlacedOnceAndMovesForward(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, id.ID{}, 1))
	if got := s.Snapshot().Task(task1); got.Observed != taskstate.Pending || got.CreatedIndex != 2 || got.DecidedIndex != 2 {
		t.Fatalf("new task = %+v", got)
	}
	reason := "no suitable node"
	must(t, s, opDecide(&logv1.Decide{Task: task1.Bytes(), Reason: &reason}))
	if got := s.Snapshot().Task(task1); got.Reason != reason || got.DecidedIndex != 2 {
		t.Errorf("a reason moved the decision: %+v", got)
	}
	none := ""
	must(t, s, opDecide(&logv1.Decide{Task: task1.Bytes(), Node: node1.Bytes(), Reason: &none}))
	got := s.Snapshot().Task(task1)
	if got.Node != node1 || got.Observed != taskstate.Assigned || got.DecidedIndex != 4 || got.ObservedAt != 4e9 || got.Reason != "" {
		t.Errorf("placed task = %+v", got)
	}
	refused(t, s, "moving a placed task", opDecide(&logv1.Decide{Task: task1.Bytes(), Node: node2.Bytes()}))
	must(t, s, opDecide(&logv1.Decide{Task: task1.Bytes(), Desired: taskstate.Shutdown}))
	must(t, s, opDecide(&logv1.Decide{Task: task1.Bytes(), Desired: taskstate.Running}))
	if got := s.Snapshot().Task(task1); got.Desired != taskstate.Shutdown || got.DesiredAt != 6e9 || got.DecidedIndex != 6 {
		t.Errorf("desired went back: %+v", got)
	}
}

func TestWhatATaskNeedsMustBeThere(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1))
	refused(t, s, "a second task with the id", opTask(task1, web, node1, 1))
	refused(t, s, "a task of no service", opTask(task2, num(77), node1, 1))
	refused(t, s, "a task on a node that is gone", opTask(task2, web, num(77), 1))
	refused(t, s, "deciding on a task that is gone", opDecide(&logv1.Decide{Task: task2.Bytes(), Desired: taskstate.Running}))
	refused(t, s, "a task without an id", opTask(id.ID{}, web, node1, 1))
	refused(t, s, "a good operation before a bad one", opService(num(60), "x"), opTask(task1, web, node1, 1))
}

func TestReportsJoin(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1))
	code := int32(3)
	failed := &modelv1.TaskStatus{State: taskstate.Failed, AgentAt: 42, Error: "exit 3", ExitCode: &code}
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running, AgentAt: 41}))
	if got := s.Snapshot().Task(task1); got.Observed != taskstate.Running || got.Detail != nil || got.AgentAt != 41 || got.ObservedAt != 3e9 {
		t.Errorf("running task = %+v", got)
	}
	must(t, s, opReport(task1, node1, failed))
	got := s.Snapshot().Task(task1)
	want := proto.CloneOf(failed)
	want.At = 4e9
	if !proto.Equal(got.Status(), want) || got.DecidedIndex != 2 {
		t.Errorf("status = %v, want %v; decided at %d, want 2", got.Status(), want, got.DecidedIndex)
	}
	before := s.Snapshot().Task(task1)
	for name, op := range map[string]*logv1.Operation{
		"the same again":      opReport(task1, node1, failed),
		"an older state":      opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running}),
		"another node's word": opReport(task1, node2, &modelv1.TaskStatus{State: taskstate.Rejected}),
		"a desired state":     opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Remove}),
		"an unknown task":     opReport(num(999), node1, failed),
		"no status":           opReport(task1, node1, nil),
	} {
		must(t, s, op)
		if s.Snapshot().Task(task1) != before {
			t.Errorf("%s changed the task", name)
		}
	}
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Orphaned}))
	if got := s.Snapshot().Task(task1); got.Observed != taskstate.Orphaned || got.Detail != nil {
		t.Errorf("the former state's exit code stayed: %+v", got)
	}
}

func TestAReportDoesNotDisturbADecision(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1))
	version := s.Snapshot().Version(KindTask, task1.Bytes())
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running}))
	u := unit(opDecide(&logv1.Decide{Task: task1.Bytes(), Desired: taskstate.Shutdown}))
	u.Expects = []*logv1.Expect{{Kind: KindTask, Key: task1.Bytes(), Version: version}}
	if err := s.ApplyProto(4, 0, []*logv1.Transaction{transaction(u)})[0]; err != nil {
		t.Errorf("the decision conflicted with a report: %v", err)
	}
}

func TestNodeSeenAndTheOperatorDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	s := small(t)
	version := s.Snapshot().Version(KindNode, node1.Bytes())
	ready := &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY}
	must(t, s, opSeen(node1, ready, &modelv1.NodeDescription{Hostname: "a"}))
	must(t, s, opSeen(node1, &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_DOWN}, nil))
	n := s.Snapshot().Node(node1)
	if n.GetMeta().GetVersion() != version || n.GetDescription().GetHostname() != "a" || n.GetStatus().GetState() != modelv1.NodeState_NODE_STATE_DOWN {
		t.Errorf("node seen = %v", n)
	}
	must(t, s, &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
		Id: node1.Bytes(), Status: ready, Spec: &modelv1.NodeSpec{Name: "edited"},
	}}})
	n = s.Snapshot().Node(node1)
	if n.GetStatus().GetState() != modelv1.NodeState_NODE_STATE_DOWN || n.GetDescription().GetHostname() != "a" || n.GetSpec().GetName() != "edited" {
		t.Errorf("edited node = %v", n)
	}
	must(t, s, opSeen(num(999), ready, nil))
	if s.Snapshot().Node(num(999)) != nil {
		t.Error("a node that was never put was seen into being")
	}
}

func TestWhatIsInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1), opMember(7, node1), opClaim(InUse(KindService), InUseKey(db, web), web),
		opClaim(ClaimServiceName, "db", db), opRevision(web, 2))
	refused(t, s, "deleting a service with tasks", opDelete(KindService, web.Bytes()))
	refused(t, s, "deleting a service in use", opDelete(KindService, db.Bytes()))
	refused(t, s, "deleting the node of a manager", opDelete(KindNode, node1.Bytes()))
	refused(t, s, "deleting the revision of a task", opDelete(KindRevision, RevisionKey(web, 1)))
	refused(t, s, "deleting the cluster", opDelete(KindCluster, nil))
	must(t, s, opRelease(InUse(KindService), InUseKey(db, web), web), opDelete(KindService, db.Bytes()))
	if _, held := s.Snapshot().Holder(ClaimServiceName, "db"); held {
		t.Error("the name outlived its service")
	}
	must(t, s, opDelete(KindTask, task1.Bytes()), opDelete(KindService, web.Bytes()))
	for r := range s.Snapshot().Revisions(web) {
		t.Errorf("revision %d outlived its service", r.GetNumber())
	}
	must(t, s, opDelete(KindMember, MemberKey(7)), opDelete(KindNode, node1.Bytes()))
	must(t, s, opDelete(KindNode, node1.Bytes()), opDelete(KindTask, task1.Bytes()), opDelete(KindRevision, RevisionKey(web, 1)))
}

func TestARevisionIsImmutableAndPointersHoldIt(t *testing.T) {
	t.Parallel()
	s := small(t)
	refused(t, s, "writing a revision again", opRevision(web, 1))
	v := &modelv1.Service{Id: web.Bytes(), Previous: 1}
	must(t, s, &logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
	refused(t, s, "deleting the rollback revision", opDelete(KindRevision, RevisionKey(web, 1)))
}

func TestAClaimHasOneOwner(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opClaim("k", "a", web))
	refused(t, s, "claiming what another has", opClaim("k", "a", db))
	refused(t, s, "claiming what one has", opClaim("k", "a", web))
	refused(t, s, "releasing what another has", opRelease("k", "a", db))
	refused(t, s, "releasing what nobody has", opRelease("k", "b", db))
	refused(t, s, "a claim of no kind", opClaim("", "b", db))
	must(t, s, opRelease("k", "a", web), opClaim("k", "a", db))
	if o, _ := s.Snapshot().Holder("k", "a"); o != db {
		t.Errorf("owner = %v, want db", o)
	}
}

func TestThereIsOneCluster(t *testing.T) {
	t.Parallel()
	s := New()
	op := func(n uint64, level uint32) *logv1.Operation {
		return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: num(n).Bytes(), FeatureLevel: level}}}
	}
	must(t, s, op(1, 3))
	refused(t, s, "another cluster", op(2, 3))
	must(t, s, op(1, 2))
	if got := s.Snapshot().Cluster(); got.GetFeatureLevel() != 3 || got.GetMeta().GetVersion() != 3 {
		t.Errorf("cluster = %v, want feature level 3 still", got)
	}
}

func TestErrorsNameTheObject(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]*Conflict{
		"service " + web.String() + " is late":       refuse(KindService, web.Bytes(), "is late"),
		"member 2a is late":                          refuse(KindMember, MemberKey(42), "is late"),
		"claim service-name web is late":             refuse(KindClaim, ClaimKey(ClaimServiceName, "web"), "is late"),
		"revision 3 of service 000000000000 is late": refuse(KindRevision, RevisionKey(web, 3), "is late"),
	} {
		if got := c.Error(); got != want {
			t.Errorf("error = %q, want %q", got, want)
		}
	}
	if err := error(&Unreadable{Index: 4, What: "x"}); !strings.Contains(err.Error(), "log entry 4") || !errdefs.IsNotImplemented(err) {
		t.Errorf("unreadable = %v", err)
	}
}

func TestAPublishedSnapshotStaysAsItIs(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opTask(task1, web, node1, 1))
	old := s.Snapshot()
	before := encoded(t, old)
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Running}), opService(web, "renamed"))
	must(t, s, opDelete(KindTask, task1.Bytes()), opDelete(KindService, web.Bytes()))
	if !bytes.Equal(before, encoded(t, old)) {
		t.Error("a snapshot changed after it was published")
	}
}

func TestARootOutsideHasNoKeyInTheState(t *testing.T) {
	t.Parallel()
	s := New()
	op := func(r *modelv1.RootCA) *logv1.Operation {
		return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: num(1).Bytes(), Root: r}}}
	}
	outside := []*modelv1.ExternalCA{{Url: "https://one"}}
	refused(t, s, "a key in both places", op(&modelv1.RootCA{Key: []byte("key"), External: outside}))
	must(t, s, op(&modelv1.RootCA{Key: []byte("key")}))
	must(t, s, op(&modelv1.RootCA{External: outside}))
}
