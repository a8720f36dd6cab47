package consensus

import (
	"crypto/rand"
	"errors"
	"testing"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
)

// writer makes sealed raft entries.
type writer struct {
	t                testing.TB
	ring             *sealed.Ring
	cluster, history id.ID
	index            uint64
}

func (w *writer) entry(term, sequence uint64) *raftpb.Entry {
	w.t.Helper()
	s, err := sealed.NewTermSealer(w.ring, w.cluster, w.history, term, 1, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := s.Seal(&logv1.Entry{Sequence: sequence, Transactions: [][]byte{[]byte("x")}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	return &raftpb.Entry{Term: new(term), Index: new(w.index), Data: data}
}

func TestApplierStopsAtWhatDoesNotFollow(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		headers [][2]uint64 // (term, sequence) of good entries
		bad     func(*writer) *raftpb.Entry
		want    error
	}{
		"a missing one":            {[][2]uint64{{1, 1}, {1, 2}}, func(w *writer) *raftpb.Entry { return w.entry(1, 4) }, ErrSpliced},
		"one twice":                {[][2]uint64{{1, 1}, {1, 2}}, func(w *writer) *raftpb.Entry { return w.entry(1, 2) }, ErrSpliced},
		"a term not begun at 1":    {[][2]uint64{{1, 1}}, func(w *writer) *raftpb.Entry { return w.entry(2, 2) }, ErrSpliced},
		"a term gone back":         {[][2]uint64{{2, 1}}, func(w *writer) *raftpb.Entry { return w.entry(1, 1) }, ErrSpliced},
		"an index left out":        {[][2]uint64{{1, 1}}, func(w *writer) *raftpb.Entry { w.index++; return w.entry(1, 2) }, ErrSpliced},
		"an entry of another term": {[][2]uint64{{1, 1}}, func(w *writer) *raftpb.Entry { e := w.entry(1, 2); e.Term = new(uint64(3)); return e }, ErrSpliced},
		"noise": {nil, func(w *writer) *raftpb.Entry {
			e := w.entry(1, 1)
			e.Data[len(e.Data)-1]++
			return e
		}, sealed.ErrTampered},
		"an unknown key": {nil, func(w *writer) *raftpb.Entry {
			other := *w
			other.ring = sealed.NewRing()
			if err := errors.Join(other.ring.Add(2, sealed.NewSecret(make([]byte, 32))), other.ring.Activate(2)); err != nil {
				w.t.Fatal(err)
			}
			return other.entry(1, 1)
		}, sealed.ErrUnknownKey},
	} {
		w := &writer{t: t, ring: sealed.NewRing(), cluster: id.New(), history: id.New()}
		m := &ledger{}
		a := NewApplier(m, w.ring, w.cluster, w.history, &Fates{})
		for _, h := range tt.headers {
			if _, err := a.Apply(w.entry(h[0], h[1])); err != nil {
				t.Errorf("%s: entry (%d, %d): %v", name, h[0], h[1], err)
			}
		}
		if _, err := a.Apply(tt.bad(w)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if m.len() != len(tt.headers) {
			t.Errorf("%s: the machine was given %d entries, want %d", name, m.len(), len(tt.headers))
		}
	}
}
