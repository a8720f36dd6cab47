//go:build lab

package cluster

import (
	"os"
	"testing"

	"github.com/skep-project/skep/integration/stage"
	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// A swarm is the hosts of one story and what is done with them here.
type swarm struct{ *stage.Stage }

// raise makes hosts, starts their daemons, and makes the first one a swarm.
func raise(t *testing.T, names ...string) *swarm {
	t.Helper()
	return &swarm{stage.Raise(t, names...)}
}
