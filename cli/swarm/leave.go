package swarm

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

func leave(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "take this node out of its swarm",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "leave even as a manager, whatever becomes of the swarm"},
			conn.TimeoutFlag(conn.ForMembership),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			api.Waiting("the daemon to leave the swarm")
			if _, err := conn.Ask(ctx, api, localv1.LocalClient.Leave, &localv1.LeaveRequest{Force: c.Bool("force")}); err != nil {
				return err
			}
			return s.Data("Node left the swarm.")
		}),
	}
}
