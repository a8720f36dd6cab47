package node

import (
	"context"
	"net"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
)

// Outside is what a node meets beyond its own process: a network, the socket of
// its users and a runtime of containers. Whole nodes are tested over one of their
// own. Every field is required.
type Outside struct {
	// Listen opens the port that nodes come to.
	Listen func(address string) (net.Listener, error)
	// ListenUnix opens the socket of users. Its connections say who is at the
	// other end: PeerUID() (uint32, error).
	ListenUnix func(path string) (net.Listener, error)
	// Dial connects to a port of another node.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Runtime returns the runtime of the node's containers.
	Runtime func(cluster, node id.ID) exec.Runtime
}

func (o *Outside) listen(address string) (net.Listener, error) {
	if o == nil {
		return net.Listen("tcp", address)
	}
	return o.Listen(address)
}

// dial is nil for the machine's own network.
func (o *Outside) dial() func(ctx context.Context, address string) (net.Conn, error) {
	if o == nil {
		return nil
	}
	return o.Dial
}

// runtime is a runtime with what it does beside its tasks for as long as a life
// lasts, and the end of the life's use of it.
type runtime interface {
	exec.Runtime
	Run(ctx context.Context) error
	Close() error
}

// lasting is a runtime that is the same for every life.
type lasting struct{ exec.Runtime }

// Run does nothing.
func (lasting) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close does nothing: the runtime is the host's.
func (lasting) Close() error { return nil }
