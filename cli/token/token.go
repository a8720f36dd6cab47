// Package token is "ctl swarm token": join tokens that an operator makes for certain
// nodes, for a while.
//
// It owns the words and columns of tokens, and draws their secrets: the managers
// are told a hash, so the token that create prints is the only copy there is.
package token

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Command returns "ctl swarm token".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "token",
		Usage:       "make, list and revoke join tokens for certain nodes, for a while",
		Subcommands: []*cli.Command{create(s), inspect(s), ls(s), revoke(s)},
	}
}

// needTokens refuses a command line without a token.
func needTokens(c *cli.Context) error {
	if !c.Args().Present() {
		return say.Hinted(say.Misuse("%s: no token given", say.Path(c.Command.HelpName)), `name it by its id: "ctl swarm token ls" lists them`)
	}
	return nil
}

func revoke(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "revoke",
		Aliases:   []string{"rm", "remove"},
		Usage:     "end tokens; whom they let in stays, whoever still waits is sent away",
		ArgsUsage: "TOKEN...",
		Flags:     []cli.Flag{conn.TimeoutFlag(conn.ForAnswer)},
		Before:    needTokens,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				api.Waiting("token %s to be revoked", ref)
				_, err := conn.Change(ctx, api, controlv1.ControlClient.RevokeToken,
					&controlv1.RevokeTokenRequest{RequestId: conn.RequestID(), Ref: ref})
				if err != nil {
					return err
				}
				return s.Data("%s", ref)
			})
		}),
	}
}

// status is what a list says of a token.
func status(t *modelv1.JoinToken, now time.Time) string {
	switch {
	case t.GetEnd() == modelv1.TokenEnd_TOKEN_END_REVOKED:
		return "revoked"
	case t.GetEnd() == modelv1.TokenEnd_TOKEN_END_USED_UP:
		return "used"
	case t.GetEnd() != 0 || !now.Before(time.Unix(0, t.GetExpiresAt())):
		return "expired"
	}
	return "active"
}

func role(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}
