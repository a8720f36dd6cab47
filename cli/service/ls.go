package service

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/list"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Name", Header: "NAME"}, {Field: "Mode", Header: "MODE"},
		{Field: "Replicas", Header: "REPLICAS"}, {Field: "Image", Header: "IMAGE"}, {Field: "Ports", Header: "PORTS"},
	},
	Default: []show.Cell{
		{Text: "{{.ID}}", Gives: 3}, {Text: "{{.Name}}", Least: 12}, {Text: "{{.Mode}}", Gives: 2}, {Text: "{{.Replicas}}"},
		{Text: "{{.Image}}", Gives: 4, Least: 12, Middle: true}, {Text: "{{.Ports}}", Gives: 1, Least: 10},
	},
	Quiet: "ID",
}

func ls(s *say.Streams) *cli.Command {
	return list.Command(s, list.List[*controlv1.ServiceView]{
		Usage: "list the services", Filters: show.Services, Table: table,
		Ask: func(ctx context.Context, api *conn.Conn, filter *controlv1.Filter) ([]*controlv1.ServiceView, error) {
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListServices, &controlv1.ListServicesRequest{Filter: filter})
			return resp.GetServices(), err
		},
		Name: shortName,
		ID:   func(v *controlv1.ServiceView) []byte { return v.GetService().GetId() },
		Row:  row,
	})
}

func row(v *controlv1.ServiceView) show.Row {
	return show.Row{
		"ID":       show.ShortID(v.GetService().GetId()),
		"Name":     v.GetService().GetSpec().GetName(),
		"Mode":     mode(v),
		"Replicas": replicas(v),
		"Image":    show.Image(v.GetTemplate().GetContainer().GetImage(), false),
		"Ports":    "",
	}
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
