package conn

import (
	"context"

	"github.com/skep-project/skep/cli/wallet"
)

// A Place is a manager that is reached over the network.
type Place struct {
	Host Host
	// Context is the name of the context in use, and Who whom it makes one.
	Context string
	Who     *wallet.Context
	// Contact is false if the manager said, when it was reached, that it does not
	// hear the quorum.
	Contact bool
}

// Elsewhere returns the manager in use if it is reached over the network, and
// finds one first if need be; nil means a daemon's own socket.
func Elsewhere(ctx context.Context, c *Conn) (*Place, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	h := c.hosts[c.at]
	if h.Address == "" {
		return nil, nil
	}
	return &Place{Host: h, Context: c.remote.Name, Who: c.remote.Who, Contact: c.contact}, nil
}
