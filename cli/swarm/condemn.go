package swarm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// CondemnWords are what the help of the commands that take Compromised says of it.
const CondemnWords = "--compromised is for a manager that may be in somebody else's hands. The node is a manager no more; all join tokens end, and none is made " +
	"until the root is another; the data key, the unlock key (if managers are locked) and the root are replaced, in this order, and standing tokens made anew. " +
	"Nodes and users that have not renewed their certificates by the deadline (10 minutes if nobody says) are left behind. It goes on whoever leads and whether " +
	"or not the command runs; typed again, the command follows it. Without --force it says what it would do. The exit codes are those of \"ctl swarm ca --rotate\"."

// CondemnFlags are those of the commands that take --compromised, beside their own.
func CondemnFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "compromised", Usage: "have nothing that it knew as a manager be worth anything any more"},
		&cli.DurationFlag{Name: "deadline", Usage: "with --compromised: how long nodes and users have to follow to the next root (10m if nobody says)"},
		&cli.StringFlag{Name: "on-straggler", Usage: "with --compromised: at the deadline `wait` for nodes and users that have not followed, or quarantine them: their certificates count no more (quarantine if nobody says)"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "with --compromised: show no progress, and no unlock key"},
		&cli.StringFlag{Name: "format", Usage: "with --compromised: json: one line for each change"},
	}
}

// Condemn returns the action of a command that takes --compromised: otherwise is what
// it does without. With remove the nodes are removed, else they become workers.
func Condemn(s *say.Streams, remove bool, otherwise cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Bool("compromised") {
			o, err := condemnOrder(c, remove)
			if err != nil {
				return err
			}
			return conn.Endless(s, o.run)(c)
		}
		for _, name := range []string{"deadline", "on-straggler", "quiet", "format"} {
			if c.IsSet(name) {
				return say.Misuse("%s: --%s is for --compromised", say.Path(c.Command.HelpName), name)
			}
		}
		return otherwise(c)
	}
}

// A condemning is what the command line asks for.
type condemning struct {
	command string // "ctl node rm --compromised"
	refs    []string
	ask     controlv1.CondemnNodeRequest
	force   bool
	detach  bool
	quiet   bool
	json    bool
}

func condemnOrder(c *cli.Context, remove bool) (*condemning, error) {
	o := &condemning{
		command: c.Command.HelpName + " --compromised", refs: c.Args().Slice(),
		force: c.Bool("force"), detach: c.Bool("detach"), quiet: c.Bool("quiet"), json: c.String("format") == "json",
	}
	if c.IsSet("format") && !o.json {
		return nil, say.Misuse("--format %s: want json", c.String("format"))
	}
	policy, err := onStraggler(c.String("on-straggler"))
	if err != nil {
		return nil, err
	}
	if c.IsSet("deadline") && c.Duration("deadline") <= 0 {
		return nil, say.Misuse("--deadline %v: want more than nothing", c.Duration("deadline"))
	}
	o.ask.Remove, o.ask.Deadline, o.ask.OnStraggler = remove, int64(c.Duration("deadline")), policy
	return o, nil
}

// run says what would be done, or has it done and follows it to its end.
func (o *condemning) run(ctx context.Context, _ *cli.Context, api *conn.Conn, limit time.Duration) error {
	v, err := o.order(ctx, api, limit)
	if err != nil {
		return err
	}
	f := newCondemnFollower(api, o, v)
	if o.detach {
		return f.detached(v)
	}
	api.Background(o.again())
	err = watchRoot(ctx, api, limit, f)
	if rpc.RefusalOf(err).GetNotManager() != nil {
		return say.Hinted(fmt.Errorf("this node is not a manager any more, and how it goes on is not shown here: %w", err), `on another manager: "`+o.again()+`" follows it`)
	}
	if err != nil {
		return err
	}
	return f.lock(ctx, limit)
}

// again is the command that follows what was asked for.
func (o *condemning) again() string { return o.command + " " + strings.Join(o.refs, " ") }

// order has each node condemned; limit bounds it.
func (o *condemning) order(ctx context.Context, api *conn.Conn, limit time.Duration) (v *controlv1.RootView, err error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	if !o.force {
		if err := o.confirmed(ctx, api); err != nil {
			return nil, err
		}
	}
	for _, ref := range o.refs {
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.CondemnNode, &controlv1.CondemnNodeRequest{
			RequestId: conn.RequestID(), Ref: ref, Remove: o.ask.GetRemove(), Deadline: o.ask.GetDeadline(), OnStraggler: o.ask.GetOnStraggler(),
		})
		if err != nil {
			return nil, err
		}
		v = resp.GetRoot()
		api.Streams().Warnings(resp.GetWarnings())
		if resp.GetJoined() && !o.json && !o.quiet {
			api.Streams().Note("what %s knew is being replaced already, asked for by %s; joining it", ref, v.GetCondemnation().GetBy())
		}
	}
	return v, nil
}

// confirmed returns nil if all that is asked for is under way already, and else an
// error that says what would be done.
func (o *condemning) confirmed(ctx context.Context, api *conn.Conn) error {
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetRoot, &controlv1.GetRootRequest{})
	if err != nil {
		return err
	}
	fresh := false
	for _, ref := range o.refs {
		fresh = fresh || !listed(resp.GetRoot().GetCondemnation(), ref)
	}
	if !fresh {
		return nil
	}
	cluster, err := conn.Read(ctx, api, controlv1.ControlClient.GetCluster, &controlv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	nodes, err := conn.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{})
	if err != nil {
		return err
	}
	return say.Hinted(errors.New(o.would(cluster, nodes.GetNodes())), "to have it done: "+o.command+" --force "+strings.Join(o.refs, " "))
}

// listed reports whether a node is condemned, as far as ref tells.
func listed(x *modelv1.Condemnation, ref string) bool {
	for _, n := range x.GetNodes() {
		if id := show.ID(n.GetNode()); ref == n.GetName() || ref == id || len(ref) >= 12 && strings.HasPrefix(id, ref) {
			return true
		}
	}
	return false
}

// would says what is done if the command is confirmed.
func (o *condemning) would(c *controlv1.GetClusterResponse, nodes []*controlv1.NodeView) string {
	what := "made a worker"
	if o.ask.GetRemove() {
		what = "removed from the swarm"
	}
	keys := "the data key and the root are replaced"
	if c.GetCluster().GetSpec().GetAutolock() {
		keys = "the data key, the unlock key and the root are replaced"
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "nothing was done yet. %s would be %s; the standing join tokens and %d others end, and there are none until the root is another; %s; ",
		strings.Join(o.refs, ", "), what, c.GetActiveTokens(), keys)
	deadline := "10m0s"
	if d := time.Duration(o.ask.GetDeadline()); d != 0 {
		deadline = d.String()
	}
	if o.ask.GetOnStraggler() == modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT {
		fmt.Fprintf(b, "the former root is trusted until every node and user has renewed its certificate, which is to be within %s", deadline)
	} else {
		fmt.Fprintf(b, "nodes and users that have not renewed their certificates within %s of that are left behind", deadline)
	}
	var down []string
	for _, n := range nodes {
		if n.GetNode().GetStatus().GetState() != modelv1.NodeState_NODE_STATE_READY && !o.names(n.GetNode()) {
			down = append(down, n.GetNode().GetDescription().GetHostname())
		}
	}
	if len(down) > 0 {
		fmt.Fprintf(b, "; not connected now: %s", strings.Join(down[:min(maxShown, len(down))], ", "))
	}
	return b.String()
}

// names reports whether a node is one that is to be condemned.
func (o *condemning) names(n *modelv1.Node) bool {
	for _, ref := range o.refs {
		if ref == n.GetSpec().GetName() || ref == n.GetDescription().GetHostname() || strings.HasPrefix(show.ID(n.GetId()), ref) {
			return true
		}
	}
	return false
}
