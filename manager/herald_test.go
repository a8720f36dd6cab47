package manager

import (
	"slices"
	"testing"

	"github.com/skep-project/skep/manager/consensus"
)

func TestALeaderBelievesWhatItSeesTwice(t *testing.T) {
	t.Parallel()
	h := &hearing{gone: map[uint64]bool{}, doubt: map[uint64]bool{}, was: func(m uint64) bool { return m == 4 }}
	look := func(active ...uint64) []uint64 {
		s := consensus.Status{RaftID: 1, Voters: []uint64{1, 2, 3}, Learners: []uint64{4}, Progress: map[uint64]consensus.Progress{}}
		for _, m := range active {
			s.Progress[m] = consensus.Progress{Active: true}
		}
		return h.turned(s)
	}
	for i, tt := range []struct {
		active, want []uint64
	}{
		{[]uint64{2, 3}, nil}, // 4 was told of by the leader before
		{[]uint64{2}, nil},    // 3 is doubted
		{[]uint64{2, 3}, nil}, // for nothing
		{[]uint64{3}, nil},    // 2 is doubted
		{[]uint64{3}, []uint64{2}},
		{[]uint64{3}, nil}, // told once
		{[]uint64{2, 3, 4}, nil},
		{[]uint64{2, 3, 4}, []uint64{2, 4}},
	} {
		if got := look(tt.active...); !slices.Equal(got, tt.want) {
			t.Errorf("look %d: %d turned, want %d", i, got, tt.want)
		}
	}
}

func TestWhoLedBefore(t *testing.T) {
	t.Parallel()
	var r reign
	for _, leader := range []uint64{2, 0, 3, 0} {
		r.of(t.Context(), leader)
	}
	if got := r.before(1); got != 3 {
		t.Errorf("before 1 led %d, want 3", got)
	}
	r.of(t.Context(), 2)
	if got := r.before(1); got != 2 { // 1 has begun to lead and this is not noted yet
		t.Errorf("before 1 led %d, want 2", got)
	}
	r.of(t.Context(), 1)
	if got := r.before(1); got != 2 {
		t.Errorf("before 1 led %d, want 2", got)
	}
}
