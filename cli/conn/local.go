package conn

import (
	"context"

	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// Local returns the daemon's own services at a host that answers, for calls that
// stream and so cannot be made anew.
func Local(ctx context.Context, c *Conn) (localv1.LocalClient, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return localv1.NewLocalClient(c.cc), c.onNode()
}
