package consensus

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FuzzManifest reads what a snapshot says of its state.
func FuzzManifest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest(&raftpb.Snapshot{Data: data}); err == nil && m.GetFormat() != ManifestFormat {
			t.Errorf("format %d is read", m.GetFormat())
		}
	})
}

// FuzzApplier changes one entry of a log: its kind, its term, its bytes. The Machine
// is given what was written, from the beginning on, or less.
func FuzzApplier(f *testing.F) {
	ring, cluster, history := sealed.NewRing(), id.New(), id.New()
	sealer, err := sealed.NewTermSealer(ring, cluster, history, 1, 1, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	var log []*raftpb.Entry
	var lines []string
	for i := range uint64(4) {
		line := fmt.Sprintf("line %d", i)
		data, err := sealer.Seal(&logv1.Entry{Sequence: i + 1, Transactions: [][]byte{[]byte(line)}})
		if err != nil {
			f.Fatal(err)
		}
		log, lines = append(log, &raftpb.Entry{Term: new(uint64(1)), Index: new(i + 1), Data: data}), append(lines, line)
	}
	change, err := proto.Marshal(&raftpb.ConfChange{NodeId: new(uint64(7)), Context: log[1].GetData()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(1), int8(0), uint64(1), log[1].GetData())
	f.Add(uint8(1), int8(0), uint64(1), log[2].GetData()) // another's place
	f.Add(uint8(1), int8(0), uint64(2), log[1].GetData())
	f.Add(uint8(1), int8(1), uint64(1), change)
	f.Add(uint8(3), int8(1), uint64(1), log[3].GetData())
	f.Add(uint8(0), int8(0), uint64(1), []byte{})
	f.Fuzz(func(t *testing.T, which uint8, kind int8, term uint64, data []byte) {
		m := &ledger{}
		a := NewApplier(m, ring, cluster, history, &Fates{})
		at := int(which) % len(log)
		for i, e := range log {
			if i == at {
				e = &raftpb.Entry{Term: &term, Index: e.Index, Type: raftpb.EntryType(kind).Enum(), Data: data}
			}
			if _, err := a.Apply(e); err != nil {
				break // the member stops
			}
		}
		if got := m.Lines; len(got) > len(lines) || !slices.Equal(got, lines[:len(got)]) {
			t.Errorf("the machine was given %q, want no more than %q", got, lines)
		}
	})
}
