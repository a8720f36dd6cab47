package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// model is the serial model: plain maps, copied before each unit. It knows the
// operations that rival transactions meet on: versions, claims, tasks.
type model struct {
	versions map[string]uint64 // "service a…" → version
	claims   map[string]id.ID
	tasks    map[id.ID]modelTask
	answered map[string]bool
}

type modelTask struct {
	service, node     id.ID
	desired, observed modelv1.TaskState
	decided           uint64
}

func (m model) clone() model {
	return model{maps.Clone(m.versions), maps.Clone(m.claims), maps.Clone(m.tasks), maps.Clone(m.answered)}
}

func (m model) version(kind logv1.Kind, key []byte) uint64 {
	if kind == KindTask {
		return m.tasks[asID(key)].decided
	}
	return m.versions[kindName(kind)+asID(key).String()]
}

// unit returns the model after u, or false if u conflicts.
func (m model) unit(index uint64, u *logv1.Unit) (model, bool) {
	for _, e := range u.GetExpects() {
		if m.version(e.GetKind(), e.GetKey()) != e.GetVersion() {
			return m, false
		}
	}
	next := m.clone()
	for _, op := range u.GetOperations() {
		if !next.operate(index, op) {
			return m, false
		}
	}
	return next, true
}

// move returns the model after a move of ms, as if it were a unit that says it all.
func (m model) move(index uint64, ms *logv1.Moves, v *logv1.Move) (model, bool) {
	u := &logv1.Unit{Expects: []*logv1.Expect{{Kind: KindService, Key: ms.GetService(), Version: ms.GetVersion()}}}
	sound := ms.GetVersion() != 0
	node := func(number uint32) []byte {
		if number == 0 {
			return nil
		}
		if int(number) > len(ms.GetNodes()) {
			sound = false
			return nil
		}
		g := ms.GetNodes()[number-1]
		u.Expects = append(u.Expects, &logv1.Expect{Kind: KindNode, Key: g.GetNode(), Version: g.GetVersion()})
		sound = sound && g.GetVersion() != 0
		return g.GetNode()
	}
	decided := map[string]bool{}
	for _, c := range v.GetChoices() {
		// What is decided of a task twice relies on a version that the first moved, if
		// it moved it; a drawn move does not do so.
		sound = sound && !decided[string(c.GetTask())] && m.tasks[asID(c.GetTask())].decided != 0
		decided[string(c.GetTask())] = true
		u.Expects = append(u.Expects, &logv1.Expect{Kind: KindTask, Key: c.GetTask(), Version: c.GetVersion()})
		if c.GetForget() {
			u.Operations = append(u.Operations, opDelete(KindTask, c.GetTask()))
			continue
		}
		u.Operations = append(u.Operations, opDecide(&logv1.Decide{Task: c.GetTask(), Desired: c.GetDesired(), Node: node(c.GetNode()), Reason: c.Reason}))
	}
	if k := v.GetMake(); k != nil {
		op := opTask(asID(k.GetTask()), asID(ms.GetService()), asID(node(k.GetNode())), k.GetSlot())
		u.Operations = append(u.Operations, op)
	}
	if !sound {
		return m, false
	}
	return m.unit(index, u)
}

func (m model) operate(index uint64, op *logv1.Operation) bool {
	switch op := op.GetOp().(type) {
	case *logv1.Operation_PutNode:
		m.versions["node"+asID(op.PutNode.GetId()).String()] = index
	case *logv1.Operation_PutService:
		m.versions["service"+asID(op.PutService.GetId()).String()] = index
	case *logv1.Operation_CreateTask:
		return m.create(index, TaskFromProto(op.CreateTask))
	case *logv1.Operation_Decide:
		return m.decide(index, op.Decide)
	case *logv1.Operation_Report:
		x, st := asID(op.Report.GetTask()), op.Report.GetStatus().GetState()
		if t, ok := m.tasks[x]; ok && t.node == asID(op.Report.GetNode()) && !t.node.IsZero() && st > t.observed {
			t.observed = st
			m.tasks[x] = t
		}
	case *logv1.Operation_Reports:
		for _, seen := range op.Reports.GetSeen() {
			st := seen.GetStatus()
			if st == nil {
				st = &modelv1.TaskStatus{State: seen.GetState()}
			}
			x, node := asID(seen.GetTask()), asID(op.Reports.GetNode())
			if node.IsZero() {
				node = m.tasks[x].node
			}
			m.operate(index, opReport(x, node, st))
		}
	case *logv1.Operation_Delete:
		return m.remove(op.Delete.GetKind(), asID(op.Delete.GetKey()))
	case *logv1.Operation_Claim:
		if _, held := m.claims[op.Claim.GetKey()]; held {
			return false
		}
		m.claims[op.Claim.GetKey()] = asID(op.Claim.GetOwner())
	case *logv1.Operation_Release:
		if o, held := m.claims[op.Release.GetKey()]; !held || o != asID(op.Release.GetOwner()) {
			return false
		}
		delete(m.claims, op.Release.GetKey())
	}
	return true
}

func (m model) create(index uint64, t *Task) bool {
	_, had := m.tasks[t.ID]
	if had || m.versions["service"+t.Service.String()] == 0 {
		return false
	}
	mt := modelTask{service: t.Service, node: t.Node, desired: t.Desired, observed: taskstate.Pending, decided: index}
	if !t.Node.IsZero() {
		if m.versions["node"+t.Node.String()] == 0 {
			return false
		}
		mt.observed = taskstate.Assigned
	}
	m.tasks[t.ID] = mt
	return true
}

func (m model) decide(index uint64, d *logv1.Decide) bool {
	x, node := asID(d.GetTask()), asID(d.GetNode())
	t, ok := m.tasks[x]
	if !ok {
		return false
	}
	if d.GetDesired() > t.desired {
		t.desired, t.decided = d.GetDesired(), index
	}
	if !node.IsZero() && node != t.node {
		if !t.node.IsZero() || m.versions["node"+node.String()] == 0 {
			return false
		}
		t.node, t.decided, t.observed = node, index, max(t.observed, taskstate.Assigned)
	}
	m.tasks[x] = t
	return true
}

func (m model) remove(kind logv1.Kind, x id.ID) bool {
	if kind == KindTask {
		delete(m.tasks, x)
		return true
	}
	key := kindName(kind) + x.String()
	if m.versions[key] == 0 {
		return true
	}
	if kind == KindService {
		for _, t := range m.tasks {
			if t.service == x {
				return false
			}
		}
	}
	delete(m.versions, key)
	maps.DeleteFunc(m.claims, func(_ string, o id.ID) bool { return o == x })
	return true
}

// render writes the model as text, one object a line.
func (m model) render() string {
	var lines []string
	for k, v := range m.versions {
		lines = append(lines, fmt.Sprintf("%s v%d", k, v))
	}
	for k, o := range m.claims {
		lines = append(lines, fmt.Sprintf("claim %s %s", k, o))
	}
	for x, t := range m.tasks {
		lines = append(lines, fmt.Sprintf("task %s %s %s %d %d v%d", x, t.service, t.node, t.desired, t.observed, t.decided))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// modelOf reads a snapshot as the model sees it.
func modelOf(snap *Snapshot) model {
	m := model{map[string]uint64{}, map[string]id.ID{}, map[id.ID]modelTask{}, nil}
	for n := range snap.Nodes() {
		m.versions["node"+asID(n.GetId()).String()] = n.GetMeta().GetVersion()
	}
	for v := range snap.Services() {
		m.versions["service"+asID(v.GetId()).String()] = v.GetMeta().GetVersion()
	}
	for c := range snap.ClaimsOn("k", "") {
		m.claims[c.GetKey()] = asID(c.GetOwner())
	}
	for t := range snap.Tasks() {
		m.tasks[t.ID] = modelTask{t.Service, t.Node, t.Desired, t.Observed, t.DecidedIndex}
	}
	return m
}

var drawnStates = []modelv1.TaskState{taskstate.Assigned, taskstate.Running, taskstate.Shutdown, taskstate.Failed}

func drawOperation(t *rapid.T) *logv1.Operation {
	node := num(rapid.Uint64Range(1, 3).Draw(t, "node"))
	service := num(rapid.Uint64Range(10, 12).Draw(t, "service"))
	task := num(rapid.Uint64Range(100, 105).Draw(t, "task"))
	maybe := node
	if rapid.Bool().Draw(t, "unplaced") {
		maybe = id.ID{}
	}
	state := rapid.SampledFrom(drawnStates).Draw(t, "state")
	key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
	switch rapid.IntRange(0, 10).Draw(t, "op") {
	case 0:
		return opNode(node)
	case 1:
		return opService(service, "s"+service.String()[20:])
	case 2, 3:
		return opTask(task, service, maybe, rapid.Uint64Range(1, 2).Draw(t, "slot"))
	case 4, 5:
		return opDecide(&logv1.Decide{Task: task.Bytes(), Desired: state, Node: maybe.Bytes()})
	case 6:
		return opReport(task, node, &modelv1.TaskStatus{State: state, Error: key})
	case 7:
		d := rapid.SampledFrom([]*logv1.Delete{
			{Kind: KindTask, Key: task.Bytes()}, {Kind: KindNode, Key: node.Bytes()}, {Kind: KindService, Key: service.Bytes()},
		}).Draw(t, "delete")
		return opDelete(d.GetKind(), d.GetKey())
	case 8:
		return opClaim("k", key, service)
	case 9:
		reports := &logv1.Reports{Node: maybe.Bytes(), Seen: []*logv1.Seen{{Task: task.Bytes(), State: state, AgentAt: 7}}}
		if rapid.Bool().Draw(t, "in full") {
			reports.Seen[0] = &logv1.Seen{Task: task.Bytes(), Status: &modelv1.TaskStatus{State: state, Error: key}}
		}
		return &logv1.Operation{Op: &logv1.Operation_Reports{Reports: reports}}
	}
	return opRelease("k", key, service)
}

func drawExpect(t *rapid.T, m model) *logv1.Expect {
	e := &logv1.Expect{Kind: KindService, Key: num(rapid.Uint64Range(10, 12).Draw(t, "expected service")).Bytes()}
	if rapid.Bool().Draw(t, "expect a task") {
		e.Kind, e.Key = KindTask, num(rapid.Uint64Range(100, 105).Draw(t, "expected task")).Bytes()
	}
	e.Version = m.version(e.GetKind(), e.GetKey())
	if rapid.IntRange(0, 3).Draw(t, "stale") == 0 {
		e.Version++
	}
	return e
}

func drawTransaction(t *rapid.T, m model) *logv1.Transaction {
	tx := &logv1.Transaction{}
	for range rapid.IntRange(1, 3).Draw(t, "units") {
		u := &logv1.Unit{}
		if rapid.Bool().Draw(t, "expects") {
			u.Expects = append(u.Expects, drawExpect(t, m))
		}
		for range rapid.IntRange(1, 4).Draw(t, "operations") {
			u.Operations = append(u.Operations, drawOperation(t))
		}
		tx.Units = append(tx.Units, u)
	}
	if rapid.Bool().Draw(t, "plans") {
		tx.Moves = append(tx.Moves, drawMoves(t, m))
	}
	return tx
}

// drawMoves draws the moves of a service, most of them right about what they rely
// on.
func drawMoves(t *rapid.T, m model) *logv1.Moves {
	stale := func(version uint64) uint64 {
		if rapid.IntRange(0, 7).Draw(t, "stale") == 0 {
			return version + 1
		}
		return version
	}
	service := num(rapid.Uint64Range(10, 12).Draw(t, "service"))
	ms := &logv1.Moves{Service: service.Bytes(), Version: stale(m.version(KindService, service.Bytes()))}
	for n := uint64(1); n <= 3; n++ {
		ms.Nodes = append(ms.Nodes, &logv1.Ground{Node: num(n).Bytes(), Version: stale(m.version(KindNode, num(n).Bytes()))})
	}
	for range rapid.IntRange(1, 3).Draw(t, "moves") {
		v, drawn := &logv1.Move{}, map[uint64]bool{}
		for range rapid.IntRange(0, 2).Draw(t, "choices") {
			n := rapid.Uint64Range(100, 105).Draw(t, "task")
			if drawn[n] {
				continue
			}
			drawn[n] = true
			x := num(n)
			v.Choices = append(v.Choices, &logv1.Choice{
				Task: x.Bytes(), Version: stale(m.version(KindTask, x.Bytes())), Desired: rapid.SampledFrom(drawnStates).Draw(t, "desired"),
				Node: rapid.Uint32Range(0, 4).Draw(t, "node"), Forget: rapid.IntRange(0, 4).Draw(t, "forget") == 0,
			})
		}
		if rapid.Bool().Draw(t, "make") {
			x := num(rapid.Uint64Range(100, 105).Draw(t, "made"))
			v.Make = &logv1.Make{Task: x.Bytes(), Revision: 1, Slot: 1, Node: rapid.Uint32Range(0, 4).Draw(t, "ground")}
		}
		ms.Moves = append(ms.Moves, v)
	}
	return ms
}

// checkIndexes holds every index to the primary order.
func checkIndexes(t *rapid.T, snap *Snapshot) {
	byService, byNode, underWay := 0, 0, 0
	census := map[id.ID]ServiceCount{}
	for task := range snap.Tasks() {
		c := census[task.Service]
		if task.Desired <= modelv1.TaskState_TASK_STATE_RUNNING && !task.Terminal() {
			c.Wanted++
			if task.Observed == modelv1.TaskState_TASK_STATE_RUNNING {
				c.Running++
			}
		}
		census[task.Service] = c
		if task.UnderWay() {
			underWay++
		}
		if !slices.Contains(slices.Collect(snap.TasksBySlot(task.Service, task.Slot)), task) {
			t.Fatalf("task %v is not under its slot", task.ID)
		}
		byService++
		if task.Node.IsZero() {
			continue
		}
		byNode++
		if !slices.Contains(slices.Collect(snap.TasksByNode(task.Node)), task) {
			t.Fatalf("task %v is not under its node", task.ID)
		}
	}
	for service, want := range census {
		if got := snap.ServiceCount(service); got != want {
			t.Fatalf("the count of service %v is %+v, want %+v", service, got, want)
		}
	}
	if got := snap.state.tallies.len(); got > len(census) {
		t.Fatalf("%d services are counted, %d have tasks", got, len(census))
	}
	if got := snap.TasksUnderWay(); got != underWay {
		t.Fatalf("%d tasks are counted as under way, %d are", got, underWay)
	}
	if got := snap.state.tasks.trees[taskByService].Len(); got != byService {
		t.Fatalf("%d tasks by service, want %d", got, byService)
	}
	if got := snap.state.tasks.trees[taskByNode].Len(); got != byNode {
		t.Fatalf("%d tasks by node, want %d", got, byNode)
	}
}

// TestApplyAgreesWithTheSerialModel applies drawn entries to the store and to the
// model: the same units stand, and the same objects result. A second store that
// takes the entries as bytes, and is replaced midway by a restored snapshot, ends
// with the same bytes; so does whoever follows the change log.
func TestApplyAgreesWithTheSerialModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, twin := New(), New()
		m := modelOf(s.Snapshot())
		watch := s.Watch(Key{Kind: KindTask}, Key{Kind: KindService})
		defer watch.Close()
		index := uint64(0)
		for range rapid.IntRange(1, 12).Draw(t, "entries") {
			index += rapid.Uint64Range(1, 2).Draw(t, "step")
			var txs []*logv1.Transaction
			var data [][]byte
			for range rapid.IntRange(1, 3).Draw(t, "transactions") {
				tx := drawTransaction(t, m)
				txs = append(txs, tx)
				b, err := proto.Marshal(tx)
				if err != nil {
					t.Fatal(err)
				}
				data = append(data, b)
			}
			before := s.Snapshot()
			beforeBytes := encoded(t, before)
			got, again := s.ApplyProto(index, int64(index), txs), twin.Apply(index, int64(index), data)
			for i, tx := range txs {
				var want []int
				number := 0
				count := func(next model, ok bool) {
					if m = next; !ok {
						want = append(want, number)
					}
					number++
				}
				for _, u := range tx.GetUnits() {
					count(m.unit(index, u))
				}
				for _, ms := range tx.GetMoves() {
					for _, v := range ms.GetMoves() {
						count(m.move(index, ms, v))
					}
				}
				if dropped := droppedBy(got[i]); !slices.Equal(dropped, want) {
					t.Fatalf("entry %d transaction %d: dropped %v, the model drops %v: %v", index, i, dropped, want, got[i])
				}
				if fmt.Sprint(got[i]) != fmt.Sprint(again[i]) {
					t.Fatalf("two stores answer %v and %v", got[i], again[i])
				}
			}
			if have, want := modelOf(s.Snapshot()).render(), m.render(); have != want {
				t.Fatalf("after entry %d the store holds\n%s\nthe model\n%s", index, have, want)
			}
			checkIndexes(t, s.Snapshot())
			if !bytes.Equal(beforeBytes, encoded(t, before)) {
				t.Fatal("a published snapshot changed")
			}
			checkChanges(t, watch, before, s.Snapshot())
			if rapid.Bool().Draw(t, "restore") {
				twin = New()
				if err := twin.Restore(bytes.NewReader(encoded(t, s.Snapshot()))); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(encoded(t, s.Snapshot()), encoded(t, twin.Snapshot())) {
				t.Fatal("two stores that applied the same entries differ")
			}
		}
	})
}

// droppedBy returns the numbers of the units an error of Apply says were dropped.
func droppedBy(err error) []int {
	switch err := err.(type) { //nolint:errorlint // Apply returns them bare
	case *Partial:
		return err.Units
	case *Conflict:
		return []int{0}
	}
	return nil
}

// checkChanges holds the watch to the truth: what differs between two snapshots
// was told, and the last word on each object is right about its deletion.
func checkChanges(t *rapid.T, w *Watch, before, after *Snapshot) {
	changes, reset := w.Take()
	if reset {
		t.Fatal("the watch lost count")
	}
	told := map[string]bool{}
	for _, c := range changes {
		if c.Index != after.Index() {
			t.Fatalf("a change of entry %d was told at %d", c.Index, after.Index())
		}
		told[string(c.Key)] = c.Deleted
	}
	for x := uint64(100); x <= 105; x++ {
		was, is := before.Task(num(x)), after.Task(num(x))
		if was != is {
			if gone, ok := told[string(num(x).Bytes())]; !ok || gone != (is == nil) {
				t.Fatalf("task %d: was %v, is %v, told %v %v", x, was, is, ok, gone)
			}
		}
	}
}
