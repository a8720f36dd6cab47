package conn

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// Endless returns the action of a command that runs until it is interrupted.
// --timeout bounds how long it does without a manager that answers; act keeps to
// that.
func Endless(s *say.Streams, act func(ctx context.Context, c *cli.Context, api *Conn, limit time.Duration) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		limit := c.Duration("timeout")
		if limit <= 0 {
			return say.Misuse("--timeout %v: want more than nothing", limit)
		}
		api, err := find(c, s)
		if err != nil {
			return err
		}
		defer api.Close()
		return api.gone(c.Context, act(c.Context, c, api, limit))
	}
}

// Hosts is how many hosts there are to choose from.
func (c *Conn) Hosts() int { return len(c.hosts) }
