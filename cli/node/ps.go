package node

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
		Usage:     "list the tasks of nodes (this one, if none is named)",
		ArgsUsage: "[NODE...]",
		Flags:     append(show.NodeTasks.TaskFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			filter, err := show.NodeTasks.Read(c)
			if err != nil {
				return err
			}
			if filter.Nodes, err = resolve(ctx, api, c.Args().Slice()); err != nil {
				return err
			}
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListTasks, &controlv1.ListTasksRequest{Filter: filter})
			if err != nil {
				return err
			}
			return show.Tasks.Print(s.Out, show.LookOf(s, c), show.TaskRows(resp.GetTasks(), resp.GetNow(), show.TaskLookOf(c)))
		}),
	}
}

// resolve returns the ids of the nodes named, so that an unknown one is refused
// rather than shown as one without tasks.
func resolve(ctx context.Context, api *conn.Conn, refs []string) ([]string, error) {
	if len(refs) == 0 {
		refs = []string{"self"}
	}
	out := make([]string, 0, len(refs))
	for _, ref := range refs {
		resp, err := get(ctx, api, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, show.ID(resp.GetNode().GetNode().GetId()))
	}
	return out, nil
}
