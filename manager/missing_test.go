package manager

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSinceWhenAMemberIsMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g missing
		if got := g.at(2, true); !got.IsZero() {
			t.Errorf("one that answers is missed since %v", got)
		}
		begin := time.Now()
		g.at(2, false)
		time.Sleep(time.Minute)
		if got := g.at(2, false); !got.Equal(begin) {
			t.Errorf("missed since %v, want %v", got, begin)
		}
		g.at(2, true)
		if got := g.at(2, false); !got.Equal(begin.Add(time.Minute)) {
			t.Errorf("missed again since %v, want a minute later", got)
		}
	})
}
