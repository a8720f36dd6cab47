package token

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/sealed"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func create(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "make a join token, which is shown this once",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", Usage: "`ROLE` of the nodes it lets in: worker or manager"},
			&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "`TIME` it lets nodes in"},
			&cli.UintFlag{Name: "uses", Value: 1, Usage: "`NUMBER` of nodes it lets in"},
			&cli.StringFlag{Name: "name", Usage: "let in only hosts whose name matches the `PATTERN` (web-*, rack[12]-?)"},
			&cli.StringSliceFlag{Name: "from", Usage: "let in only hosts that ask from the `NETWORK` (10.1.0.0/16); may be given more than once"},
			&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "`KEY=VALUE` that the nodes get as a label; may be given more than once"},
			&cli.BoolFlag{Name: "approve", Usage: `have each node wait until "ctl node accept"`},
			&cli.StringFlag{Name: "description", Usage: "`TEXT` that lists show"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show the token only"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Before: func(c *cli.Context) error {
			_, err := request(c)
			return err
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			req, err := request(c)
			if err != nil {
				return err
			}
			secret := ca.NewTokenSecret()
			hash := sha256.Sum256(secret.Reveal())
			req.SecretHash = hash[:]
			resp, err := conn.Change(ctx, api, controlv1.ControlClient.CreateToken, req)
			if err != nil {
				return err
			}
			return created(s, c, resp, secret)
		}),
	}
}

// request is what the flags ask for, without the secret.
func request(c *cli.Context) (*controlv1.CreateTokenRequest, error) {
	if c.Args().Present() {
		return nil, say.Misuse("swarm token create: %q is one word too many", c.Args().First())
	}
	r := modelv1.Role(modelv1.Role_value["ROLE_"+strings.ToUpper(c.String("role"))])
	if r == 0 {
		return nil, say.Misuse("--role %q: want worker or manager", c.String("role"))
	}
	if c.Duration("ttl") <= 0 {
		return nil, say.Misuse("--ttl %v: want a time such as 30m or 24h", c.Duration("ttl"))
	}
	if c.Uint("uses") == 0 || c.Uint("uses") > 1<<31 {
		return nil, say.Misuse("--uses %d: want a number from 1 up", c.Uint("uses"))
	}
	labels := make(map[string]string)
	for _, text := range c.StringSlice("label") {
		key, value, _ := strings.Cut(text, "=")
		if key == "" {
			return nil, say.Misuse("--label %q: want KEY=VALUE", text)
		}
		labels[key] = value
	}
	return &controlv1.CreateTokenRequest{
		RequestId: conn.RequestID(), Role: r, Ttl: int64(c.Duration("ttl")), Uses: uint32(c.Uint("uses")),
		Name: c.String("name"), From: c.StringSlice("from"), Labels: labels,
		Approve: c.Bool("approve"), Description: c.String("description"),
	}, nil
}

// created prints the token.
func created(s *say.Streams, c *cli.Context, resp *controlv1.CreateTokenResponse, secret sealed.Secret) error {
	t := resp.GetToken()
	root, err := ca.DigestFromBytes(t.GetRoot())
	if err != nil {
		return fmt.Errorf("the root that the token is to pin: %w", err)
	}
	text := ca.Token{Digest: root, Secret: secret, FIPS: resp.GetFips()}.Reveal()
	if c.Bool("quiet") {
		return s.Data("%s", text)
	}
	nodes := "one node"
	if t.GetUses() > 1 {
		nodes = fmt.Sprintf("%d nodes", t.GetUses())
	}
	if _, err := fmt.Fprintf(s.Out, "To add a %s to this swarm, run the following command:\n\n    ctl swarm join --token %s %s\n\n",
		role(t.GetRole()), text, resp.GetAddress()); err != nil {
		return err
	}
	s.Note("This token (%s) is shown only now. It lets in %s, until %s.", show.ShortID(t.GetId()), nodes,
		time.Unix(0, t.GetExpiresAt()).UTC().Format(time.RFC3339))
	return nil
}
