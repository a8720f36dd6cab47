package swarm

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func joinToken(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "join-token",
		Usage:     "show or change what a node joins with",
		ArgsUsage: "worker|manager",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show the token only"},
			&cli.BoolFlag{Name: "rotate", Usage: "make a new token; the old one lets nobody in any more"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			word, role, err := tokenRole(c)
			if err != nil {
				return err
			}
			token, address, err := getToken(ctx, api, role, c.Bool("rotate"))
			if err != nil {
				return err
			}
			if token == "" { // it was rotated by who may not see it
				return unseen(s, word, c.Bool("quiet"))
			}
			if c.Bool("quiet") {
				return s.Data("%s", token)
			}
			rotated := ""
			if c.Bool("rotate") {
				rotated = fmt.Sprintf("Successfully rotated %s join token.\n\n", word)
			}
			_, err = fmt.Fprintf(s.Out, "%sTo add a %s to this swarm, run the following command:\n\n    ctl swarm join --token %s %s\n\n",
				rotated, word, token, address)
			return err
		}),
	}
}

// unseen says that a token was rotated, and who sees it.
func unseen(s *say.Streams, word string, quiet bool) error {
	if quiet {
		return nil
	}
	if err := s.Data("Successfully rotated %s join token.", word); err != nil {
		return err
	}
	s.Note("the token is shown to admins only: ctl swarm join-token %s", word)
	return nil
}

func tokenRole(c *cli.Context) (word string, role modelv1.Role, err error) {
	switch word = c.Args().First(); {
	case c.Args().Len() != 1:
		return "", 0, say.Misuse("swarm join-token: say whether it is for a worker or a manager")
	case word == "worker":
		return word, modelv1.Role_ROLE_WORKER, nil
	case word == "manager":
		return word, modelv1.Role_ROLE_MANAGER, nil
	}
	return "", 0, say.Misuse("swarm join-token: %q is no role: want worker or manager", word)
}

func getToken(ctx context.Context, api *conn.Conn, role modelv1.Role, rotate bool) (token, address string, err error) {
	if rotate {
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.RotateJoinToken,
			&controlv1.RotateJoinTokenRequest{RequestId: conn.RequestID(), Role: role})
		return resp.GetToken(), resp.GetAddress(), err
	}
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetJoinToken, &controlv1.GetJoinTokenRequest{Role: role})
	return resp.GetToken(), resp.GetAddress(), err
}
