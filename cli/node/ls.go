package node

import (
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Self"}, {Field: "Hostname", Header: "HOSTNAME"},
		{Field: "Status", Header: "STATUS"}, {Field: "Availability", Header: "AVAILABILITY"},
		{Field: "ManagerStatus", Header: "MANAGER STATUS"}, {Field: "EngineVersion", Header: "ENGINE VERSION"},
		{Field: "TLSStatus", Header: "TLS STATUS"},
	},
	Default: `{{.ID}} {{if .Self}}*{{else}} {{ end }}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}`,
	Quiet:   "ID",
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the nodes",
		Flags:   append(show.ListFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			filter, err := show.NodeFilter(c)
			if err != nil {
				return err
			}
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{Filter: filter})
			if err != nil {
				return err
			}
			return table.Print(s.Out, show.LookOf(c), rows(resp.GetNodes()))
		}),
	}
}

func rows(nodes []*controlv1.NodeView) []show.Row {
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b *controlv1.NodeView) int {
		if c := show.Natural(hostname(a), hostname(b)); c != 0 {
			return c
		}
		return slices.Compare(a.GetNode().GetId(), b.GetNode().GetId())
	})
	out := make([]show.Row, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, show.Row{
			"ID":            show.ID(n.GetNode().GetId()),
			"Self":          n.GetSelf(),
			"Hostname":      hostname(n),
			"Status":        status(n.GetNode()),
			"Availability":  show.Title(availability(n.GetNode())),
			"ManagerStatus": managerStatus(n.GetManager()),
			"EngineVersion": n.GetNode().GetDescription().GetVersion(),
			"TLSStatus":     tlsStatus(n),
		})
	}
	return out
}

func hostname(n *controlv1.NodeView) string { return n.GetNode().GetDescription().GetHostname() }

func managerStatus(m *controlv1.ManagerStatus) string {
	switch {
	case m == nil:
		return ""
	case m.GetLeader():
		return "Leader"
	}
	return show.Title(reachability(m))
}

// tlsStatus: a certificate that says another role than the record is due for
// renewal.
func tlsStatus(n *controlv1.NodeView) string {
	switch current := n.GetNode().GetCurrent(); {
	case current == nil:
		return "Unknown"
	case current.GetRole() != n.GetNode().GetRole():
		return "Needs Rotation"
	}
	return "Ready"
}
