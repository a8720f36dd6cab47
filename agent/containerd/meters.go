package containerd

import (
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/skep-project/skep/internal/meter"
)

// Meters is what a Runtime counted.
type Meters struct {
	// Up is false while containerd does not answer, as far as the last use of the
	// connection shows; it is used at least twice a minute.
	Up bool
	// Pulls is how long images took to be pulled and unpacked; PullsFailed counts
	// those that were not.
	Pulls       meter.Reading
	PullsFailed uint64
}

// Meters returns what was counted. It asks containerd nothing.
func (r *Runtime) Meters() Meters {
	state := r.conn.GetState()
	return Meters{
		Up:    state == connectivity.Ready || state == connectivity.Idle,
		Pulls: r.pullTook.Read(), PullsFailed: r.pullFailed.Value(),
	}
}

func (r *Runtime) pulled(took time.Duration, err error) {
	if err != nil {
		r.pullFailed.Inc()
		return
	}
	r.pullTook.Observe(took)
}
