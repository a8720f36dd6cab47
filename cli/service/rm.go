package service

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func rm(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Aliases:   []string{"remove"},
		Usage:     "remove services and their tasks",
		ArgsUsage: "SERVICE...",
		Flags:     []cli.Flag{conn.TimeoutFlag(conn.ForAnswer)},
		Before:    need,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				api.Waiting("service %s to be removed", ref)
				_, err := conn.Change(ctx, api, controlv1.ControlClient.RemoveService,
					&controlv1.RemoveServiceRequest{RequestId: conn.RequestID(), Ref: ref})
				if err != nil {
					return err
				}
				return s.Data("%s", ref)
			})
		}),
	}
}
