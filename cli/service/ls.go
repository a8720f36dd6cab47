package service

import (
	"context"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Name", Header: "NAME"}, {Field: "Mode", Header: "MODE"},
		{Field: "Replicas", Header: "REPLICAS"}, {Field: "Image", Header: "IMAGE"}, {Field: "Ports", Header: "PORTS"},
	},
	Default: `{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}`,
	Quiet:   "ID",
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the services",
		Flags:   append(show.ListFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			filter, err := show.ServiceFilter(c)
			if err != nil {
				return err
			}
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListServices, &controlv1.ListServicesRequest{Filter: filter})
			if err != nil {
				return err
			}
			return table.Print(s.Out, show.LookOf(c), rows(resp.GetServices()))
		}),
	}
}

func rows(services []*controlv1.ServiceView) []show.Row {
	services = slices.Clone(services)
	slices.SortStableFunc(services, func(a, b *controlv1.ServiceView) int { return show.Natural(shortName(a), shortName(b)) })
	out := make([]show.Row, 0, len(services))
	for _, v := range services {
		out = append(out, show.Row{
			"ID":       show.ShortID(v.GetService().GetId()),
			"Name":     v.GetService().GetSpec().GetName(),
			"Mode":     mode(v),
			"Replicas": replicas(v),
			"Image":    show.Image(v.GetTemplate().GetContainer().GetImage(), false),
			"Ports":    "",
		})
	}
	return out
}

// replicas is "running/desired", with the limit per node if there is one, and
// that the service is on its way out.
func replicas(v *controlv1.ServiceView) string {
	text := fmt.Sprintf("%d/%d", v.GetRunning(), v.GetDesired())
	if n := v.GetTemplate().GetPlacement().GetMaxReplicasPerNode(); n > 0 {
		text += fmt.Sprintf(" (max %d per node)", n)
	}
	if v.GetService().GetRemoving() {
		text += " (removing)"
	}
	return text
}
