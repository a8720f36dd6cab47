//go:build invariants

package store

import "testing"

func TestChangingWhatTheStoreGaveOutEndsTheProcess(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.Snapshot().Service(web).GetSpec().Name = "changed by a reader"
	defer func() {
		if recover() == nil {
			t.Error("nobody noticed")
		}
	}()
	_ = step(s, opService(web, "new")) // it panics
}
