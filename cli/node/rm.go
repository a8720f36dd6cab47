package node

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/swarm"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func rm(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "rm",
		Aliases:     []string{"remove"},
		Usage:       "remove nodes from the swarm",
		ArgsUsage:   "NODE...",
		Description: swarm.CondemnWords,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove it even if it is not down"},
			conn.TimeoutFlag(conn.ForAnswer),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "with --compromised: do not wait for the end"},
		}, swarm.CondemnFlags()...),
		Before: needNodes,
		Action: swarm.Condemn(s, true, conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				api.Waiting("node %s to be removed", ref)
				resp, err := conn.Change(ctx, api, controlv1.ControlClient.RemoveNode,
					&controlv1.RemoveNodeRequest{RequestId: conn.RequestID(), Ref: ref, Force: c.Bool("force")})
				if err != nil {
					return err
				}
				s.Warnings(resp.GetWarnings())
				return s.Data("%s", ref)
			})
		})),
	}
}
