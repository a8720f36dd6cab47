package dispatch

import (
	"testing"
	"time"
)

func TestALeaderTrustsItsClockUnlessMostPeersDiffer(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, tt := range []struct {
		name  string
		peers []time.Duration
		want  time.Duration
	}{
		{"alone there is nothing to compare with", nil, 0},
		{"one peer proves nothing", []time.Duration{time.Hour}, 0},
		{"two peers that agree prove it", []time.Duration{10 * s, 11 * s}, 10 * s},
		{"two peers that disagree prove nothing", []time.Duration{0, time.Hour}, 0},
		{"one bad clock of four is outvoted", []time.Duration{0, s, -s, time.Hour}, 0},
		{"most peers behind", []time.Duration{-9 * s, -8 * s, 0}, -8 * s},
		{"within tolerance", []time.Duration{5 * s, 4 * s}, 0},
	} {
		if got := off(tt.peers); got != tt.want {
			t.Errorf("%s: off(%v) = %v, want %v", tt.name, tt.peers, got, tt.want)
		}
	}
}
