package store

import (
	"bytes"
	"testing"

	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// FuzzApply holds apply to its promises for any bytes: it ends, it answers each
// transaction, it moves on or stays, and what it leaves can be kept.
func FuzzApply(f *testing.F) {
	f.Add(marshal(f, transaction(unit(opNode(node1), opService(web, "web"), opTask(task1, web, node1, 1)))))
	f.Add(marshal(f, transaction(unit(opDelete(KindService, web.Bytes())), unit(opDelete(KindRevision, RevisionKey(web, 1))))))
	f.Add(marshal(f, transaction(unit(opClaim("k", "a", web), opMember(3, node2)), unit(opRelease("k", "a", web)))))
	f.Add(marshal(f, &logv1.Transaction{Moves: []*logv1.Moves{{Service: web.Bytes(), Version: 1, Nodes: []*logv1.Ground{{Node: node1.Bytes(), Version: 1}},
		Moves: []*logv1.Move{{Choices: []*logv1.Choice{{Task: task1.Bytes(), Version: 1, Desired: taskstate.Shutdown}}, Make: &logv1.Make{Task: num(77).Bytes(), Revision: 1, Slot: 1, Node: 1}}}}}}))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := full(t)
		before := s.Snapshot().Index()
		errs := s.Apply(before+1, 1, [][]byte{data})
		if len(errs) != 1 {
			t.Fatalf("%d answers to one transaction", len(errs))
		}
		_, stopped := errs[0].(*Unreadable) //nolint:errorlint // Apply returns it bare
		if at := s.Snapshot().Index(); stopped != (at == before) {
			t.Fatalf("index %d after %d, answer %v", at, before, errs[0])
		}
		back := New()
		if err := back.Restore(bytes.NewReader(encoded(t, s.Snapshot()))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encoded(t, s.Snapshot()), encoded(t, back.Snapshot())) {
			t.Fatal("the state did not survive its snapshot")
		}
	})
}

// FuzzRestore: any bytes are a snapshot or an error, and an error changes nothing.
func FuzzRestore(f *testing.F) {
	f.Add(encoded(f, full(f).Snapshot()))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New()
		empty := s.Snapshot()
		if err := s.Restore(bytes.NewReader(data)); err != nil && s.Snapshot() != empty {
			t.Errorf("refused with %v, and the store changed", err)
		}
	})
}
