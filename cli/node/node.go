// Package node is "ctl node": the hosts of a swarm, as their operator sees and
// changes them.
//
// It owns the words and columns of nodes. What a change means is the manager's.
package node

import (
	"context"
	"errors"

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
			accept(s), demote(s), inspect(s), ls(s), promote(s), ps(s), reject(s), rm(s), update(s),
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

// each does one thing to each node named, and goes on past a refusal.
func each(ctx context.Context, c *cli.Context, do func(ctx context.Context, ref string) error) error {
	var errs []error
	for _, ref := range c.Args().Slice() {
		if err := do(ctx, ref); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func get(ctx context.Context, api *conn.Conn, ref string) (*controlv1.GetNodeResponse, error) {
	return conn.Read(ctx, api, controlv1.ControlClient.GetNode, &controlv1.GetNodeRequest{Ref: ref})
}

// status is what a list says of a node: Ready, Down, Unknown, or Pending if it
// waits to be accepted.
func status(n *modelv1.Node) string {
	if n.GetMembership() == modelv1.Membership_MEMBERSHIP_PENDING {
		return "Pending"
	}
	switch n.GetStatus().GetState() {
	case modelv1.NodeState_NODE_STATE_READY:
		return "Ready"
	case modelv1.NodeState_NODE_STATE_DOWN:
		return "Down"
	}
	return "Unknown"
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
