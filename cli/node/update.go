package node

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func update(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "update",
		Usage:     "change a node",
		ArgsUsage: "NODE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "availability", Usage: "active, pause or drain"},
			&cli.StringSliceFlag{Name: "label-add", KeepSpace: true, Usage: "`KEY=VALUE` to add or change"},
			&cli.StringSliceFlag{Name: "label-rm", KeepSpace: true, Usage: "`KEY` to take out"},
			&cli.StringFlag{Name: "role", Usage: "worker or manager"},
			&cli.BoolFlag{Name: "revoke", Usage: "make all certificates of the node void; it waits for \"ctl node accept\" to get another"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			req, err := updateRequest(c)
			if err != nil {
				return err
			}
			api.Waiting("node %s to be changed", req.GetRef())
			resp, err := conn.Change(ctx, api, controlv1.ControlClient.UpdateNode, req)
			if err != nil {
				return err
			}
			s.Warnings(resp.GetWarnings())
			return s.Data("%s", req.GetRef())
		}),
	}
}

func updateRequest(c *cli.Context) (*controlv1.UpdateNodeRequest, error) {
	if c.Args().Len() != 1 {
		return nil, say.Misuse("node update: want one node, got %d", c.Args().Len())
	}
	req := &controlv1.UpdateNodeRequest{RequestId: conn.RequestID(), Ref: c.Args().First(), LabelsRm: c.StringSlice("label-rm"), Revoke: c.Bool("revoke")}
	for _, text := range c.StringSlice("label-add") {
		k, v, _ := strings.Cut(text, "=")
		if k == "" {
			return nil, say.Misuse("--label-add %q: want KEY=VALUE", text)
		}
		if req.LabelsAdd == nil {
			req.LabelsAdd = map[string]string{}
		}
		req.LabelsAdd[k] = v
	}
	if c.IsSet("availability") {
		a, ok := modelv1.Availability_value["AVAILABILITY_"+strings.ToUpper(c.String("availability"))]
		if !ok || a == 0 {
			return nil, say.Misuse("--availability %q: want active, pause or drain", c.String("availability"))
		}
		req.Availability = modelv1.Availability(a).Enum()
	}
	if c.IsSet("role") {
		r, ok := modelv1.Role_value["ROLE_"+strings.ToUpper(c.String("role"))]
		if !ok || r == 0 {
			return nil, say.Misuse("--role %q: want worker or manager", c.String("role"))
		}
		req.Role = modelv1.Role(r).Enum()
	}
	return req, nil
}
