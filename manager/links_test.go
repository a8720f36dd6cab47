package manager

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
)

func TestNoConnectionIsMadeAfterTheManagerHasClosedThem(t *testing.T) {
	t.Parallel()
	l := newLinks(&ca.Holder{}, nil)
	if _, err := l.to(id.New(), "192.0.2.1:1"); err != nil {
		t.Fatal(err)
	}
	l.close()
	if _, err := l.to(id.New(), "192.0.2.1:1"); !errdefs.IsUnavailable(err) || len(l.conns) != 0 {
		t.Errorf("a call that came late: %v with %d connections, want it refused and none", err, len(l.conns))
	}
}
