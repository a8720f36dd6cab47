package store

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skep-project/skep/internal/taskstate"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/testing/protocmp"
)

type fataler interface {
	Helper()
	Fatal(args ...any)
}

func encoded(t fataler, snap *Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := snap.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func records(t fataler, data []byte) (out []*logv1.Record) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		rec := &logv1.Record{}
		if err := protodelim.UnmarshalFrom(r, rec); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
}

// sameObjects compares two encoded snapshots but for the index and time of the
// header.
func sameObjects(t testing.TB, a, b []byte) bool {
	return cmp.Equal(records(t, a)[1:], records(t, b)[1:], protocmp.Transform())
}

// full is a store with an object of every kind.
func full(t testing.TB) *Store {
	s := small(t)
	code := int32(1)
	must(t, s, &logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
		Id: num(500).Bytes(), History: num(501).Bytes(), Spec: &modelv1.ClusterSpec{Labels: map[string]string{"a": "1", "b": "2", "c": "3"}},
	}}}, opMember(1<<63, node1), opClaim(ClaimServiceName, "web", web), opUser(num(600), "alice"), opToken(num(700), "h", 2, node1), opTask(task1, web, node1, 1), opTask(task2, web, num(0), 2))
	must(t, s, opReport(task1, node1, &modelv1.TaskStatus{State: taskstate.Failed, Error: "x", ExitCode: &code, AgentAt: 9}))
	tx := transaction(unit(opNode(num(3))))
	tx.Request = &logv1.Request{Caller: "c", Id: []byte("i"), Hash: []byte("h"), Objects: [][]byte{num(3).Bytes()}}
	tx.Deed = &logv1.Deed{Who: "user:alice", Did: "UpdateNode"}
	if err := s.ApplyProto(s.Snapshot().Index()+1, 0, []*logv1.Transaction{tx})[0]; err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASnapshotSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	s := full(t)
	data := encoded(t, s.Snapshot())
	kinds := map[string]bool{}
	for _, r := range records(t, data) {
		kinds[string(r.ProtoReflect().WhichOneof(r.ProtoReflect().Descriptor().Oneofs().Get(0)).Name())] = true
	}
	if want := (&logv1.Record{}).ProtoReflect().Descriptor().Fields().Len(); len(kinds) != want {
		t.Fatalf("the snapshot has records of %d kinds (%v), the format %d", len(kinds), kinds, want)
	}
	back := New()
	if err := back.Restore(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(records(t, data), records(t, encoded(t, back.Snapshot())), protocmp.Transform()); diff != "" {
		t.Errorf("restored differs (-want +got):\n%s", diff)
	}
	// Both go on alike.
	for _, st := range []*Store{s, back} {
		must(t, st, opDelete(KindTask, task1.Bytes()), opService(web, "web2"))
	}
	if !bytes.Equal(encoded(t, s.Snapshot()), encoded(t, back.Snapshot())) {
		t.Error("the restored store went another way")
	}
}

func TestADamagedSnapshotIsRefusedWhole(t *testing.T) {
	t.Parallel()
	data := encoded(t, full(t).Snapshot())
	for n := range len(data) {
		s := small(t)
		before := s.Snapshot()
		if err := s.Restore(bytes.NewReader(data[:n])); err == nil {
			t.Fatalf("a snapshot cut at byte %d was restored", n)
		}
		if s.Snapshot() != before {
			t.Fatalf("a snapshot cut at byte %d changed the store", n)
		}
	}
}

func TestASnapshotOfALaterFormatIsRefusedInWords(t *testing.T) {
	t.Parallel()
	for name, rec := range map[string][]*logv1.Record{
		"format": {{Record: &logv1.Record_Header{Header: &logv1.SnapshotHeader{Format: snapshotFormat + 1}}}},
		"record": {{Record: &logv1.Record_Header{Header: &logv1.SnapshotHeader{Format: snapshotFormat}}}, {}},
	} {
		var b bytes.Buffer
		for _, r := range rec {
			if _, err := protodelim.MarshalTo(&b, r); err != nil {
				t.Fatal(err)
			}
		}
		var u *Unreadable
		if err := New().Restore(&b); !errors.As(err, &u) {
			t.Errorf("%s: %v, want Unreadable", name, err)
		}
	}
}
