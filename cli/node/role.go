package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/cli/swarm"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func promote(s *say.Streams) *cli.Command {
	return roleCommand(s, turn{
		name: "promote", usage: "make nodes managers", to: modelv1.Role_ROLE_MANAGER,
		waits:    "node %s to become a manager",
		done:     "Node %s promoted to a manager in the swarm.",
		already:  "Node %s is already a manager.",
		onItsWay: "Node %s is being made a manager already.",
		asked:    "Node %s is being made a manager.",
		past:     "promoted",
	})
}

func demote(s *say.Streams) *cli.Command {
	c := roleCommand(s, turn{
		name: "demote", usage: "make nodes workers", to: modelv1.Role_ROLE_WORKER,
		waits:    "manager %s to become a worker",
		done:     "Manager %s demoted in the swarm.",
		already:  "Node %s is already a worker.",
		onItsWay: "Node %s is being made a worker already.",
		asked:    "Manager %s is being made a worker.",
		past:     "demoted",
	})
	c.Description = swarm.CondemnWords
	c.Flags = append(c.Flags, swarm.CondemnFlags()...)
	c.Flags = append(c.Flags, &cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "with --compromised: have it done"})
	c.Action = swarm.Condemn(s, false, c.Action)
	return c
}

// A turn is a change of role and its words.
type turn struct {
	name, usage          string
	to                   modelv1.Role
	waits, done, already string
	onItsWay, asked      string // without waiting: was it wished before, or now
	past                 string
}

func roleCommand(s *say.Streams, t turn) *cli.Command {
	return &cli.Command{
		Name:      t.name,
		Usage:     t.usage,
		ArgsUsage: "NODE...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait until the node has its new role"},
			conn.TimeoutFlag(conn.ForMembership),
		},
		Before: needNodes,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				return t.make(ctx, api, ref, c.Bool("detach"))
			})
		}),
	}
}

// make asks for the role and waits until the node has it.
func (t turn) make(ctx context.Context, api *conn.Conn, ref string, detach bool) error {
	s := api.Streams()
	api.Waiting(t.waits, ref)
	self := t.self(ctx, api)
	resp, err := conn.Change(ctx, api, controlv1.ControlClient.UpdateNode,
		&controlv1.UpdateNodeRequest{RequestId: conn.RequestID(), Ref: ref, Role: t.to.Enum()})
	if err != nil {
		return t.stranded(err, ref, !conn.MayBeDone(err))
	}
	s.Warnings(resp.GetWarnings())
	switch {
	case resp.GetUnchanged() && t.has(resp.GetNode()):
		return s.Data(t.already, ref)
	case detach && resp.GetUnchanged():
		return s.Data(t.onItsWay, ref)
	case detach:
		return s.Data(t.asked, ref)
	}
	api.Background("ctl node ls")
	if err := t.wait(ctx, api, resp.GetNode(), ref, self); err != nil {
		return t.stranded(err, ref, false)
	}
	return s.Data(t.done, ref)
}

// self is the id of the node that is asked: when that is demoted it has no swarm
// to tell of. The change's answer does not say it, for that may be the leader's.
// Empty: not known; if something is wrong the change will say what.
func (t turn) self(ctx context.Context, api *conn.Conn) string {
	p, err := conn.Elsewhere(ctx, api)
	switch {
	case err != nil || t.to != modelv1.Role_ROLE_WORKER:
		return ""
	case p != nil:
		return show.ID(p.Host.Peer.Node.Bytes())
	}
	info, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
	if err != nil {
		return ""
	}
	return show.ID(info.GetNode())
}

// stranded says what became of a node's turn, if it ended because the node that
// was asked is no manager: it may have been demoted itself meanwhile.
func (t turn) stranded(err error, ref string, untouched bool) error {
	at := rpc.RefusalOf(err).GetNotManager()
	if at == nil {
		return err
	}
	where := "on a manager"
	if len(at.GetAddresses()) > 0 {
		where += " (they answer at " + strings.Join(at.GetAddresses(), ", ") + ")"
	}
	if untouched {
		return say.Hinted(fmt.Errorf("node %s was not %s: %w", ref, t.past, err), fmt.Sprintf(`type "ctl node %s %s" %s`, t.name, ref, where))
	}
	return &say.Error{Code: say.Refused, Hint: `"ctl node ls" shows it ` + where,
		Err: fmt.Errorf("whether node %s was %s is not known here: this node is not a manager any more", ref, t.past)}
}

func (t turn) wait(ctx context.Context, api *conn.Conn, n *controlv1.NodeView, ref, self string) error {
	screen := progress.Screen{W: api.Streams().Err}
	screen.Width, _ = api.Streams().Terminal()
	id := show.ID(n.GetNode().GetId())
	for shown := ""; !t.reached(n); {
		if line := t.line(n, ref); line != shown && screen.Width > 0 {
			screen.Draw([]progress.Line{{Text: line}})
			shown = line
		}
		if err := api.Pause(ctx); err != nil {
			return err
		}
		resp, err := get(ctx, api, id)
		switch {
		case err == nil:
			n = resp.GetNode()
		case id == self && rpc.RefusalOf(err).GetNotManager() != nil:
			screen.Draw(nil)
			return nil
		case !conn.Again(err):
			return err
		}
	}
	screen.Draw(nil)
	return nil
}

// has reports whether the node has the role, and a manager its vote. That somebody
// wished it before is not enough: it may be on its way.
func (t turn) has(n *controlv1.NodeView) bool {
	return n.GetNode().GetRole() == t.to && n.GetManager().GetVoter() == (t.to == modelv1.Role_ROLE_MANAGER)
}

// reached reports whether the node has the role, and is nothing else any more.
func (t turn) reached(n *controlv1.NodeView) bool {
	if t.to == modelv1.Role_ROLE_WORKER {
		return t.has(n) && n.GetManager() == nil
	}
	return t.has(n) && n.GetManager().GetReachability() == controlv1.ManagerStatus_REACHABILITY_REACHABLE
}

// line says how far the node is.
func (t turn) line(n *controlv1.NodeView, ref string) string {
	at := "asked"
	switch m := n.GetManager(); {
	case show.NodeState(n.GetNode()) != "Ready":
		at = "the node is " + show.NodeState(n.GetNode())
	case m != nil && !m.GetVoter():
		at = "it learns the log"
	case m != nil && t.to == modelv1.Role_ROLE_MANAGER:
		at = "its manager is " + reachability(m)
	}
	return fmt.Sprintf("waiting for "+t.waits+": %s", ref, at)
}
