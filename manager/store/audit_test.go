package store

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// asked is a transaction of one unit that alice asked for.
func asked(did string, ops ...*logv1.Operation) *logv1.Transaction {
	tx := transaction(unit(ops...))
	tx.Deed = &logv1.Deed{Who: "user:alice", User: num(600).Bytes(), From: "10.0.0.9", Via: num(2).Bytes(), Did: did}
	return tx
}

func seen(did, code string, count uint64) *logv1.Sight {
	return &logv1.Sight{Deed: &logv1.Deed{Who: "anyone", From: "10.6.6.6", Did: did}, By: num(1).Bytes(), Code: code, Reason: "join token refused", Count: count, First: 5}
}

func trail(t testing.TB, s *Store) (out []audit.Record) {
	t.Helper()
	tr := s.Snapshot().Trail()
	if err := tr.Check(); err != nil {
		t.Fatal(err)
	}
	for _, line := range tr.After(0) {
		r, err := audit.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func opCluster(history uint64) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{Id: num(500).Bytes(), History: num(history).Bytes(), Spec: &modelv1.ClusterSpec{}}}}
}

func TestWhatSomebodyAskedForIsInTheTrailAndNothingElse(t *testing.T) {
	t.Parallel()
	s := small(t)
	w := s.Watch(Key{Kind: KindAudit})
	defer w.Close()
	must(t, s, opCluster(501)) // the swarm's own work, like what is done to tasks
	must(t, s, opTask(task1, web, node1, 1))
	if tr := s.Snapshot().Trail(); tr.Len() != 0 {
		t.Fatalf("the trail has %d records", tr.Len())
	}
	if changes, _ := w.Take(); len(changes) != 0 {
		t.Errorf("a watch was woken for %v", changes)
	}
	create := asked("CreateService", opService(num(50), "api"), opRevision(num(50), 1), opClaim(ClaimServiceName, "api", num(50)))
	create.Request = &logv1.Request{Caller: "user:alice", Id: []byte{0xab, 0xcd}, Hash: []byte("h"), Objects: [][]byte{num(50).Bytes()}}
	again := asked("CreateService", opService(num(51), "api"))
	again.Request = create.GetRequest()
	lost := asked("CreateService", opService(num(52), "api"), opClaim(ClaimServiceName, "api", num(52)))
	errs := s.ApplyProto(10, 10e9, []*logv1.Transaction{create, again, lost, transaction(unit(opNode(num(9))))})
	if errs[0] != nil || errs[1] == nil || errs[2] == nil || errs[3] != nil {
		t.Fatalf("the entry: %v", errs)
	}
	s.ApplyProto(11, 11e9, []*logv1.Transaction{asked("RemoveService", opDelete(KindService, num(50).Bytes())), {Sights: []*logv1.Sight{seen("Enroll", "permission denied", 7), seen("GetUnlockKey", "", 1)}}})
	got := trail(t, s)
	if len(got) != 5 {
		t.Fatalf("the trail is %+v", got)
	}
	if r := got[0]; r.Did != audit.Begin || r.Cluster != num(500).String() || r.HistoryID != num(501).String() || r.Index != 10 {
		t.Errorf("it begins with %+v", r)
	}
	if r := got[1]; r.Seq != 2 || r.Did != "CreateService" || r.Who != "user:alice" || r.User != num(600).String() || r.Via != num(2).String() || r.From != "10.0.0.9" ||
		r.Result != audit.Done || r.Request != "abcd" || r.At.UnixNano() != 10e9 || len(r.Objects) != 1 || r.Objects[0] != (audit.Object{Kind: "service", ID: num(50).String(), Name: "api", Became: "made"}) {
		t.Errorf("the creation is %+v", r)
	}
	if r := got[2]; r.Did != "RemoveService" || len(r.Objects) != 1 || r.Objects[0].Name != "api" {
		t.Errorf("the removal is %+v, want it to say what was removed", r)
	}
	if r := got[3]; r.Result != audit.Refused || r.Code != "permission denied" || r.Count != 7 || r.First.UnixNano() != 5 || r.By != num(1).String() || r.Reason == "" {
		t.Errorf("the refusal is %+v", r)
	}
	if r := got[4]; r.Result != audit.Done || r.Count != 0 || !r.First.IsZero() {
		t.Errorf("what was shown is %+v", r)
	}
	if changes, reset := w.Take(); len(changes) != 2 || reset {
		t.Errorf("a watch was told %v, want one change an entry", changes)
	}
}

func TestARecordSaysWhatBecameOfWhat(t *testing.T) {
	t.Parallel()
	s := small(t)
	must(t, s, opCluster(501))
	node := func(n *modelv1.Node) *logv1.Operation {
		n.Id = num(40).Bytes()
		return &logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: n}}
	}
	cluster := func(k *modelv1.Cluster) *logv1.Operation {
		k.Id, k.History = num(500).Bytes(), num(501).Bytes()
		return &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: k}}
	}
	cert := func(n byte) *modelv1.Certificate {
		return &modelv1.Certificate{Serial: []byte{0xab, n}, Generation: uint64(n)}
	}
	workerSpec := &modelv1.NodeSpec{Role: modelv1.Role_ROLE_WORKER, Availability: modelv1.Availability_AVAILABILITY_ACTIVE}
	managerSpec := &modelv1.NodeSpec{Role: modelv1.Role_ROLE_MANAGER, Availability: modelv1.Availability_AVAILABILITY_DRAIN}
	for i, tt := range []struct {
		op   *logv1.Operation
		want string
	}{
		{node(&modelv1.Node{Spec: workerSpec, Membership: modelv1.Membership_MEMBERSHIP_PENDING}), "made, pending, to be worker"},
		{node(&modelv1.Node{Spec: workerSpec, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Current: cert(1)}), "accepted, certificate ab01, generation 1"},
		{node(&modelv1.Node{Spec: managerSpec, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Role: modelv1.Role_ROLE_MANAGER, Current: cert(2)}),
			"to be manager, is manager, drain, certificate ab02, generation 2"},
		{opDelete(KindNode, num(40).Bytes()), "removed"},
		{opUser(num(41), "bob"), "made"},
		{opDelete(KindUser, num(41).Bytes()), "removed"},
		{opToken(num(42), "x", 2), "made, for a worker"},
		{opToken(num(42), "x", 2, node1), "used 1 of 2 times"},
		{opMember(77, node1), "made, learner"},
		{cluster(&modelv1.Cluster{Spec: &modelv1.ClusterSpec{Autolock: true, NoStandingTokens: true}, UnlockKey: []byte("hunter2"), UnlockNumber: 1}), "autolock on, standing tokens off, unlock key 1"},
		{cluster(&modelv1.Cluster{Spec: &modelv1.ClusterSpec{}, UnlockNumber: 2, WorkerToken: []byte("hunter2"), ManagerToken: []byte("hunter3"), Root: &modelv1.RootCA{Key: []byte("hunter4")}}),
			"autolock off, standing tokens on, another worker token, another manager token, another root key"},
		{cluster(&modelv1.Cluster{Spec: &modelv1.ClusterSpec{}, UnlockNumber: 2, ManagerToken: []byte("hunter3"), Root: &modelv1.RootCA{Key: []byte("hunter4")},
			Condemnation: &modelv1.Condemnation{Nodes: []*modelv1.Condemned{{Name: "m2"}}}}), "managers that may be compromised: m2, no worker token"},
		{cluster(&modelv1.Cluster{Spec: &modelv1.ClusterSpec{}, UnlockNumber: 2, ManagerToken: []byte("hunter3"), Root: &modelv1.RootCA{Key: []byte("hunter4")}}),
			"nothing that managers knew which may be compromised counts any more"},
	} {
		if err := s.ApplyProto(uint64(100+i), 1, []*logv1.Transaction{asked("X", tt.op)})[0]; err != nil {
			t.Fatalf("%s: %v", tt.want, err)
		}
		all := trail(t, s)
		if r := all[len(all)-1]; len(r.Objects) != 1 || r.Objects[0].Became != tt.want {
			t.Errorf("it became %+v, want %s", r.Objects, tt.want)
		}
	}
}

func TestAManagerThatLiesDoesNotBreakTheTrail(t *testing.T) {
	t.Parallel()
	s := small(t)
	var sights []*logv1.Sight
	for _, did := range []string{"", audit.Begin, audit.Truncate, audit.Checkpoint, audit.History, "\x00\xff\"}"} {
		sights = append(sights, seen(did, "x", 1))
	}
	s.ApplyProto(10, 1, []*logv1.Transaction{{Sights: append(sights, &logv1.Sight{})}})
	got := trail(t, s)
	if len(got) != 8 {
		t.Fatalf("there are %d records", len(got))
	}
	for _, r := range got[1:] {
		if audit.Own(r.Did) {
			t.Errorf("a caller's word is taken for the trail's: %+v", r)
		}
	}
}

func TestManyObjectsAreCounted(t *testing.T) {
	t.Parallel()
	s := New()
	var ops []*logv1.Operation
	for i := range uint64(20) {
		ops = append(ops, opNode(num(i+1)), opNode(num(i+1)))
	}
	s.ApplyProto(1, 1, []*logv1.Transaction{asked("X", ops...)})
	if r := trail(t, s)[1]; len(r.Objects) != 16 || r.More != 4 {
		t.Errorf("it names %d and counts %d more", len(r.Objects), r.More)
	}
}

func TestANewHistoryIsInTheTrail(t *testing.T) {
	t.Parallel()
	s := New()
	must(t, s, opCluster(501))
	must(t, s, opCluster(501))
	must(t, s, opCluster(502))
	if got := trail(t, s); len(got) != 2 || got[1].Did != audit.History || got[1].HistoryID != num(502).String() {
		t.Errorf("the trail is %+v", got)
	}
}

// TestEveryReplicaHasTheSameTrail, whichever entries it got in a snapshot.
func TestEveryReplicaHasTheSameTrail(t *testing.T) {
	t.Parallel()
	one, two := small(t), small(t)
	for i := range uint64(60) {
		txs := []*logv1.Transaction{
			asked("UpdateNode", opNode(num(i%7+1))), transaction(unit(opNode(num(90)))),
			{Sights: []*logv1.Sight{seen("Enroll", "permission denied", i+1)}},
			{Seal: &logv1.Seal{Cluster: num(500).Bytes(), Seq: i, Hash: make([]byte, 32), Root: make([]byte, 32), Signature: []byte{1}}},
		}
		one.ApplyProto(10+i, int64(i)*1e9, txs)
		two.ApplyProto(10+i, int64(i)*1e9, txs)
		if i%20 == 10 {
			var saved bytes.Buffer
			if err := one.Snapshot().Encode(&saved); err != nil {
				t.Fatal(err)
			}
			two = New()
			if err := two.Restore(&saved); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := one.Snapshot().Trail(), two.Snapshot().Trail(); a.Head() != b.Head() || a.Last() != b.Last() || a.First() != b.First() {
			t.Fatalf("after %d entries one has record %d %s, two record %d %s", i+1, a.Last(), a.Head(), b.Last(), b.Head())
		}
	}
	if got := trail(t, two); len(got) != 1+60*3 {
		t.Errorf("it has %d records", len(got))
	}
}

// TestAnOldSnapshotStaysAsItWas while records are added to the trail it shares.
func TestAnOldSnapshotStaysAsItWas(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.ApplyProto(10, 1, []*logv1.Transaction{asked("UpdateNode", opNode(num(1)))})
	old := s.Snapshot()
	head, n := old.Trail().Head(), old.Trail().Len()
	for i := range uint64(100) {
		s.ApplyProto(11+i, 1, []*logv1.Transaction{asked("UpdateNode", opNode(num(1)))})
	}
	if tr := old.Trail(); tr.Head() != head || tr.Len() != n || tr.Check() != nil {
		t.Errorf("it has %d records, head %s: %v", tr.Len(), tr.Head(), tr.Check())
	}
}

func TestTheTrailOfALaterVersionIsUnreadable(t *testing.T) {
	t.Parallel()
	later := []byte{0xf8, 0x07, 1} // field 127
	for name, spoil := range map[string]func(*logv1.Transaction){
		"deed":  func(tx *logv1.Transaction) { tx.GetDeed().ProtoReflect().SetUnknown(later) },
		"seal":  func(tx *logv1.Transaction) { tx.GetSeal().ProtoReflect().SetUnknown(later) },
		"sight": func(tx *logv1.Transaction) { tx.GetSights()[0].GetDeed().ProtoReflect().SetUnknown(later) },
	} {
		s := New()
		tx := asked("X", opNode(num(1)))
		tx.Seal, tx.Sights = &logv1.Seal{}, []*logv1.Sight{seen("Enroll", "x", 1)}
		spoil(tx)
		if err := s.ApplyProto(1, 1, []*logv1.Transaction{tx})[0]; err == nil || s.Snapshot().Index() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnUpdateIsAttributed(t *testing.T) {
	t.Parallel()
	s := small(t)
	db := NewDB(s, proposerFunc(func(_ context.Context, tx []byte) (uint64, error) {
		index := s.Snapshot().Index() + 1
		return index, s.Apply(index, 1, [][]byte{tx})[0]
	}))
	type key struct{}
	db.Attribute(func(ctx context.Context) *logv1.Deed {
		who, ok := ctx.Value(key{}).(string)
		if !ok {
			return nil
		}
		return &logv1.Deed{Who: who, Did: "X"}
	})
	for _, ctx := range []context.Context{t.Context(), context.WithValue(t.Context(), key{}, "user:bob")} {
		if _, err := db.Update(ctx, nil, func(tx *Tx) error {
			return tx.PutNode(&modelv1.Node{Id: num(77).Bytes(), Meta: tx.Node(num(77)).GetMeta()})
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Update(ctx, nil, func(*Tx) error { return nil }); err != nil { // nothing came of it
			t.Fatal(err)
		}
	}
	if got := trail(t, s); len(got) != 2 || got[1].Who != "user:bob" {
		t.Errorf("the trail is %+v", got)
	}
}

type proposerFunc func(context.Context, []byte) (uint64, error)

func (f proposerFunc) Propose(ctx context.Context, tx []byte) (uint64, error) { return f(ctx, tx) }

// BenchmarkAsked is an entry of 64 creations of services, asked for by nobody and
// by somebody.
func BenchmarkAsked(b *testing.B) {
	for name, deed := range map[string]*logv1.Deed{"nobody": nil, "alice": asked("CreateService").GetDeed()} {
		b.Run(name, func(b *testing.B) {
			s := New()
			b.ReportAllocs()
			n := uint64(0)
			for b.Loop() {
				var txs []*logv1.Transaction
				for range 64 {
					n++
					tx := transaction(unit(opService(num(n%100_000+1), fmt.Sprint("s", n%100_000))))
					tx.Deed = deed
					txs = append(txs, tx)
				}
				s.apply(s.Snapshot().Index()+1, int64(n), txs)
			}
		})
	}
}
