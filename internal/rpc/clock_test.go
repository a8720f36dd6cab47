package rpc

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
)

// TestARefusalForTheTimeSaysHowFarThisHostIsOff: the client holds the manager's
// clock against its own.
func TestARefusalForTheTimeSaysHowFarThisHostIsOff(t *testing.T) {
	t.Parallel()
	manager := id.New()
	for off, want := range map[time.Duration]string{
		0:                    "it expired",
		4 * time.Second:      "it expired",
		3 * time.Hour:        "it expired; this host's clock is 3h0m0s behind the swarm's, by what manager " + manager.Short() + " says",
		-90 * 24 * time.Hour: "it expired; this host's clock is 2160h0m0s ahead of the swarm's, by what manager " + manager.Short() + " says",
	} {
		err := fromStatus(toStatus(RefuseTime(Errorf(errdefs.ErrUnauthenticated, "it expired"), "join again", manager, time.Now().Add(off))))
		hint := ClockHint
		if off.Abs() <= ClockTolerance {
			hint = "join again"
		}
		if !errdefs.IsUnauthorized(err) || err.Error() != want || HintOf(err) != hint {
			t.Errorf("%v off: %q with hint %q, want %q with %q", off, err, HintOf(err), want, hint)
		}
	}
}
