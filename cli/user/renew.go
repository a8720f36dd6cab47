package user

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func renew(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "renew",
		Usage:     "make a user another certificate; without a name, one's own in the context in use",
		ArgsUsage: "[USER]",
		Flags:     []cli.Flag{ttlFlag(), outputFlag(), conn.TimeoutFlag(conn.ForAnswer)},
		Before: func(c *cli.Context) error {
			switch {
			case c.Args().Len() > 1:
				return say.Misuse("user renew: one user at a time")
			case !c.Args().Present() && (c.IsSet("ttl") || c.IsSet("output")):
				return say.Misuse("user renew: --ttl and --output are for a user that is named; one's own certificate stays in its context")
			}
			return nil
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			if c.Args().Present() {
				return anew(ctx, c, api)
			}
			return own(ctx, c, api)
		}),
	}
}

// anew makes a certificate in the place of the one a user has.
func anew(ctx context.Context, c *cli.Context, api *conn.Conn) error {
	key, csr, err := draw()
	if err != nil {
		return err
	}
	out, err := openOutput(api.Streams(), c.String("output"))
	if err != nil {
		return err
	}
	defer out.close()
	resp, err := conn.Change(ctx, api, controlv1.ControlClient.ReissueUser, &controlv1.ReissueUserRequest{
		RequestId: conn.RequestID(), Ref: c.Args().First(), Ttl: int64(c.Duration("ttl")), Csr: csr,
	})
	if err != nil {
		return err
	}
	return out.write(resp.GetIssued(), key)
}

// own renews the certificate of the context in use.
func own(ctx context.Context, c *cli.Context, api *conn.Conn) error {
	s := api.Streams()
	name, err := conn.Chosen(c, s)
	if err != nil {
		return err
	}
	if name == wallet.Default {
		return say.Hinted(say.Misuse("user renew: no context is in use whose certificate could be renewed"),
			"name the user: ctl user renew USER -o FILE")
	}
	next, err := Renew(ctx, api, name)
	if err != nil {
		return err
	}
	return s.Data("%s", next.Credential.Identity.NotAfter.UTC().Format(time.RFC3339))
}

// Renew gives the context of a name, which api speaks for, its next certificate, and
// returns it. Its key is kept before it is asked for, so that a lost answer locks
// nobody out (R17).
func Renew(ctx context.Context, api *conn.Conn, name string) (*wallet.Context, error) {
	store := wallet.Open(api.Streams().Getenv)
	who, err := store.Get(name)
	if err != nil {
		return nil, err
	}
	key, err := store.Pending(name)
	if err != nil {
		return nil, err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return nil, err
	}
	resp, err := conn.Change(ctx, api, controlv1.ControlClient.RenewUser, &controlv1.RenewUserRequest{RequestId: conn.RequestID(), Csr: csr})
	if err != nil {
		return nil, err
	}
	next, err := who.Renewed(resp.GetIssued(), key, time.Now())
	if err != nil {
		return nil, err
	}
	return next, store.Replace(name, next)
}

// Abreast returns the context of a name with a certificate of the root, which is to
// follow another: as another command has renewed it, or renewed here.
func Abreast(ctx context.Context, api *conn.Conn, name string, root ca.Digest) (*wallet.Context, error) {
	store := wallet.Open(api.Streams().Getenv)
	if who, err := store.Get(name); err != nil || who.Credential.SignedBy(root) {
		return who, err
	}
	next, err := Renew(ctx, api, name)
	if err == nil {
		return next, nil
	}
	// Of two commands that renew at once, one is told that it is not its turn.
	if who, gerr := store.Get(name); gerr == nil && who.Credential.SignedBy(root) {
		return who, nil
	}
	return nil, err
}
