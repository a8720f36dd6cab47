package user

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func create(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "let somebody use the swarm from elsewhere, and write the context to do it with",
		ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", Value: "viewer", Usage: "viewer (looks), operator (and runs services), rotator (replaces keys and does nothing else) or admin (everything)"},
			ttlFlag(), outputFlag(), conn.TimeoutFlag(conn.ForAnswer),
		},
		Before: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return say.Misuse("user create: say what the user is called, and nothing else")
			}
			_, err := parseRole(c)
			return err
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			role, err := parseRole(c)
			if err != nil {
				return err
			}
			key, csr, err := draw()
			if err != nil {
				return err
			}
			out, err := openOutput(s, c.String("output"))
			if err != nil {
				return err
			}
			defer out.close()
			resp, err := conn.Change(ctx, api, controlv1.ControlClient.CreateUser, &controlv1.CreateUserRequest{
				RequestId: conn.RequestID(), Name: c.Args().First(), Role: role, Ttl: int64(c.Duration("ttl")), Csr: csr,
			})
			if err != nil {
				return err
			}
			return out.write(resp.GetIssued(), key)
		}),
	}
}
