//go:build lab

package services

import (
	"os"
	"strings"
	"testing"

	"github.com/skep-project/skep/integration/stage"
	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// A swarm is a manager, m1, and two workers, w1 and w2.
type swarm struct{ *stage.Stage }

// raise makes the swarm.
func raise(t *testing.T) *swarm {
	t.Helper()
	s := &swarm{stage.Raise(t, "m1", "w1", "w2")}
	token := strings.TrimSpace(s.Must("m1", "ctl swarm join-token -q worker"))
	for _, name := range []string{"w1", "w2"} {
		s.Must(name, "ctl swarm join --token "+token+" m1:2377")
	}
	return s
}
