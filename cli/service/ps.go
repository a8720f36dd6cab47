package service

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func ps(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "list the tasks of services",
		ArgsUsage: "SERVICE...",
		Flags:     append(show.ServiceTasks.TaskFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before:    need,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			filter, err := show.ServiceTasks.Read(c)
			if err != nil {
				return err
			}
			missing := conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				v, err := get(ctx, api, ref)
				if err == nil {
					filter.Services = append(filter.Services, idOf(v))
				}
				return err
			})
			if len(filter.Services) == 0 {
				return missing
			}
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListTasks, &controlv1.ListTasksRequest{Filter: filter})
			if err != nil {
				return err
			}
			if err := show.Tasks.Print(s.Out, show.LookOf(s, c), show.TaskRows(resp.GetTasks(), resp.GetNow(), show.TaskLookOf(c))); err != nil {
				return err
			}
			return missing
		}),
	}
}
