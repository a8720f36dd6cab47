// Package node is "ctl node": the hosts of a swarm, as their operator sees and
// changes them.
//
// It owns the words and columns of nodes. What a change means is the manager's.
package node

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Command returns "ctl node".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "node",
		Usage: "list, inspect and change the nodes of a swarm",
		Subcommands: []*cli.Command{
			accept(s), cert(s), demote(s), inspect(s), ls(s), promote(s), ps(s), reject(s), rm(s), update(s),
		},
	}
}

// needNodes refuses a command line without a node.
func needNodes(c *cli.Context) error {
	if !c.Args().Present() {
		return say.Hinted(say.Misuse("%s: no node given", say.Path(c.Command.HelpName)), `"ctl node ls" lists them`)
	}
	return nil
}

func get(ctx context.Context, api *conn.Conn, ref string) (*controlv1.GetNodeResponse, error) {
	return conn.Read(ctx, api, controlv1.ControlClient.GetNode, &controlv1.GetNodeRequest{Ref: ref})
}

func availability(n *modelv1.Node) string {
	switch n.GetSpec().GetAvailability() {
	case modelv1.Availability_AVAILABILITY_PAUSE:
		return "pause"
	case modelv1.Availability_AVAILABILITY_DRAIN:
		return "drain"
	}
	return "active"
}

func role(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}

func reachability(m *controlv1.ManagerStatus) string {
	switch m.GetReachability() {
	case controlv1.ManagerStatus_REACHABILITY_REACHABLE:
		return "reachable"
	case controlv1.ManagerStatus_REACHABILITY_UNREACHABLE:
		return "unreachable"
	}
	return "unknown"
}
