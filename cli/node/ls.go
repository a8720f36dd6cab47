package node

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/list"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Self"}, {Field: "Hostname", Header: "HOSTNAME"},
		{Field: "Status", Header: "STATUS"}, {Field: "Availability", Header: "AVAILABILITY"},
		{Field: "ManagerStatus", Header: "MANAGER STATUS"}, {Field: "EngineVersion", Header: "ENGINE VERSION"},
		{Field: "TLSStatus", Header: "TLS STATUS"}, {Field: "Address", Header: "ADDRESS"}, {Field: "Key", Header: "KEY"},
	},
	Default: []show.Cell{
		{Text: "{{.ID}} {{if .Self}}*{{else}} {{ end }}", Short: "{{truncate .ID 12}}", Gives: 2},
		{Text: "{{.Hostname}}", Short: "{{if .Self}}* {{end}}{{.Hostname}}", Least: 12},
		{Text: "{{.Status}}"}, {Text: "{{.Availability}}", Gives: 3}, {Text: "{{.ManagerStatus}}"}, {Text: "{{.EngineVersion}}", Gives: 1, Least: 14},
	},
	Quiet: "ID",
}

func ls(s *say.Streams) *cli.Command {
	return list.Command(s, list.List[*controlv1.NodeView]{
		Usage: "list the nodes", Filters: show.Nodes, Table: table,
		Ask: func(ctx context.Context, api *conn.Conn, filter *controlv1.Filter) ([]*controlv1.NodeView, error) {
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{Filter: filter})
			return resp.GetNodes(), err
		},
		Name: hostname,
		ID:   func(n *controlv1.NodeView) []byte { return n.GetNode().GetId() },
		Row:  row,
	})
}

func row(n *controlv1.NodeView) show.Row {
	return show.Row{
		"ID":            show.ID(n.GetNode().GetId()),
		"Self":          n.GetSelf(),
		"Hostname":      hostname(n),
		"Status":        show.NodeState(n.GetNode()),
		"Availability":  show.Title(availability(n.GetNode())),
		"ManagerStatus": managerStatus(n.GetManager()),
		"EngineVersion": n.GetNode().GetDescription().GetVersion(),
		"TLSStatus":     tlsStatus(n),
		"Address":       address(n.GetNode()),
		"Key":           fingerprint(n.GetNode()),
	}
}

func hostname(n *controlv1.NodeView) string { return n.GetNode().GetDescription().GetHostname() }

// fingerprint is the key a node enrolled with, or waits to renew with, as "ctl swarm
// join" or "ctl info" shows it there.
func fingerprint(n *modelv1.Node) string {
	if show.WaitsToRenew(n) {
		return digest(n.GetWait().GetKey())
	}
	return digest(n.GetEnrolmentKey())
}

// digest is a key's as people compare it, "" for none.
func digest(b []byte) string {
	key, err := ca.DigestFromBytes(b)
	if err != nil {
		return "" // the first manager did not enrol
	}
	return key.Fingerprint()
}

func managerStatus(m *controlv1.ManagerStatus) string {
	switch {
	case m == nil:
		return ""
	case m.GetLeader():
		return "Leader"
	case !m.GetVoter() && m.GetReachability() == controlv1.ManagerStatus_REACHABILITY_REACHABLE:
		return "Learning" // it takes in the log and has no vote yet, or no longer
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
