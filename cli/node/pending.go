package node

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func accept(s *say.Streams) *cli.Command {
	return decision(s, "accept", "let nodes in that wait; compare their keys first", func(ctx context.Context, api *conn.Conn, ref string) (string, error) {
		api.Waiting("node %s to be accepted", ref)
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.AcceptNode, &controlv1.AcceptNodeRequest{RequestId: conn.RequestID(), Ref: ref})
		if resp.GetUnchanged() {
			return "Node " + ref + " is in already.", err
		}
		return "Node " + ref + " accepted.", err
	})
}

func reject(s *say.Streams) *cli.Command {
	return decision(s, "reject", "send nodes away that wait", func(ctx context.Context, api *conn.Conn, ref string) (string, error) {
		api.Waiting("node %s to be rejected", ref)
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.RejectNode, &controlv1.RejectNodeRequest{RequestId: conn.RequestID(), Ref: ref})
		if resp.GetUnchanged() {
			return "Node " + ref + " was rejected already.", err
		}
		return "Node " + ref + " rejected.", err
	})
}

func decision(s *say.Streams, name, usage string, do func(ctx context.Context, api *conn.Conn, ref string) (string, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "NODE...",
		Flags:  []cli.Flag{conn.TimeoutFlag(conn.ForAnswer)},
		Before: needNodes,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				said, err := do(ctx, api, ref)
				if err != nil {
					return err
				}
				return s.Data("%s", said)
			})
		}),
	}
}
