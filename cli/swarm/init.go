package swarm

import (
	"context"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var unservedInit = map[string]string{
	"data-path-addr": "overlay networks are", "data-path-port": "overlay networks are",
	"default-addr-pool": "overlay networks are", "default-addr-pool-mask-length": "overlay networks are",
}

func initialise(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a swarm with this node as its first manager",
		Flags: append(slices.Concat(addressFlags(), settingFlags(true)),
			&cli.BoolFlag{Name: "force-new-cluster", Usage: "make this manager the only one of its own swarm, when the others are lost for good"},
			&cli.BoolFlag{Name: "fips", Usage: "ask for FIPS 140-3 mode (ctl daemon --fips) of each node, for good"},
			&cli.BoolFlag{Name: "no-standing-tokens", Usage: "have no standing join tokens: the same as --standing-tokens off"},
			&cli.StringFlag{Name: "data-path-port", Hidden: true},
			&cli.StringSliceFlag{Name: "default-addr-pool", Hidden: true},
			&cli.StringFlag{Name: "default-addr-pool-mask-length", Hidden: true},
			&cli.StringFlag{Name: "ca-cert", Usage: "`FILE` with the swarm's root, in PEM, whose key is at an external CA; without it one is made"},
			externalFlag("with --ca-cert: where that root signs"),
			conn.TimeoutFlag(conn.ForMembership),
		),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			req, err := initRequest(c)
			if err != nil {
				return err
			}
			api.Waiting("the daemon to make the swarm")
			resp, err := conn.Ask(ctx, api, localv1.LocalClient.Init, req)
			if err != nil {
				return err
			}
			return initialised(s, resp, req.GetForceNewCluster())
		}),
	}
}

func initRequest(c *cli.Context) (*localv1.InitRequest, error) {
	if err := refuse(c, unservedInit); err != nil {
		return nil, err
	}
	a, err := availability(c)
	if err != nil {
		return nil, err
	}
	if c.Bool("force-new-cluster") && c.IsSet("autolock") {
		return nil, say.Hinted(say.Misuse("swarm init: --force-new-cluster keeps the swarm's settings, --autolock with them"), "change it afterwards with: ctl swarm update --autolock=true")
	}
	if c.Bool("force-new-cluster") && c.Bool("fips") {
		return nil, say.Misuse("swarm init: --force-new-cluster keeps the swarm as it was founded, with or without --fips")
	}
	spec := &modelv1.ClusterSpec{} // what is not given is zero, which is the default
	if _, err := set(c, spec); err != nil {
		return nil, err
	}
	if c.Bool("no-standing-tokens") {
		spec.NoStandingTokens = true
	}
	if err := checkPulse(spec); err != nil {
		return nil, err
	}
	root, external, err := firstRoot(c)
	if err != nil {
		return nil, err
	}
	return &localv1.InitRequest{
		Root: root, External: external,
		AdvertiseAddr:   c.String("advertise-addr"),
		ListenAddr:      c.String("listen-addr"),
		Availability:    a,
		ForceNewCluster: c.Bool("force-new-cluster"),
		Spec:            spec,
		Fips:            c.Bool("fips"),
	}, nil
}

// firstRoot reads the root that the swarm is to have, and where it signs.
func firstRoot(c *cli.Context) (root []byte, external []*modelv1.ExternalCA, err error) {
	if c.IsSet("ca-cert") != c.IsSet("external-ca") {
		return nil, nil, say.Misuse("swarm init: --ca-cert and --external-ca belong together: a root, and the external CA that has its key")
	}
	if c.IsSet("ca-cert") && c.Bool("force-new-cluster") {
		return nil, nil, say.Hinted(say.Misuse("swarm init: --force-new-cluster keeps the root"), "change it afterwards with: ctl swarm ca --rotate")
	}
	if external, err = readExternal(c.StringSlice("external-ca")); err != nil {
		return nil, nil, err
	}
	root, err = readCert("ca-cert", c.String("ca-cert"))
	return root, external, err
}

func initialised(s *say.Streams, resp *localv1.InitResponse, forced bool) error {
	kept := ""
	if forced {
		kept = "It is the only manager now; services, ids, tokens and the CA are what they were.\n\n"
	}
	if _, err := fmt.Fprintf(s.Out, "Swarm initialized: current node (%s) is now a manager.\n\n%s%s\n\n",
		show.ID(resp.GetNode()), kept, howToJoin(resp)); err != nil || resp.GetUnlockKey() == "" || forced {
		return err
	}
	return tellUnlockKey(s, resp.GetUnlockKey())
}

// howToJoin says how nodes come in.
func howToJoin(resp *localv1.InitResponse) string {
	if resp.GetWorkerToken() == "" {
		return `It has no standing join tokens. To add a node, make a token for it:

    ctl swarm token create --role worker`
	}
	return fmt.Sprintf(`To add a worker to this swarm, run the following command:

    ctl swarm join --token %s %s

To add a manager to this swarm, run 'ctl swarm join-token manager' and follow the instructions.`,
		resp.GetWorkerToken(), resp.GetAddress())
}
