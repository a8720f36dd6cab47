package user

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// object is a user as inspect prints it; the set only grows.
type object struct {
	ID          string
	Version     version
	CreatedAt   *time.Time `json:",omitempty"`
	UpdatedAt   *time.Time `json:",omitempty"`
	CreatedBy   string
	Name        string
	Role        string
	TTL         time.Duration
	Certificate certificate
}

type version struct{ Index uint64 }

type certificate struct {
	Generation uint64
	Serial     string
	KeySHA256  string
	NotBefore  *time.Time
	NotAfter   *time.Time
}

func newObject(u *modelv1.User) object {
	c := u.GetCurrent()
	return object{
		ID: show.ID(u.GetId()), Version: version{u.GetMeta().GetVersion()},
		CreatedAt: show.Time(u.GetMeta().GetCreatedAt()), UpdatedAt: show.Time(u.GetMeta().GetUpdatedAt()),
		CreatedBy: u.GetCreatedBy(), Name: u.GetName(), Role: rpc.RoleName(u.GetRole()), TTL: time.Duration(u.GetTtl()),
		Certificate: certificate{Generation: c.GetGeneration(), Serial: hex.EncodeToString(c.GetSerial()), KeySHA256: hex.EncodeToString(c.GetKeySha256()),
			NotBefore: show.Time(c.GetNotBefore()), NotAfter: show.Time(c.GetNotAfter())},
	}
}

func inspect(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show users in full",
		ArgsUsage: "USER...",
		Flags:     append(show.InspectFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before: func(c *cli.Context) error {
			if err := show.CheckInspect(c); err != nil {
				return err
			}
			return needUsers(c)
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			var found []object
			missing := conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetUser, &controlv1.GetUserRequest{Ref: ref})
				if err == nil {
					found = append(found, newObject(resp.GetUser()))
				}
				return err
			})
			if err := show.Objects(s.Out, c, found, pretty); err != nil {
				return err
			}
			return missing
		}),
	}
}

func pretty(o object) *show.Sheet {
	s := &show.Sheet{}
	s.Field("ID", o.ID)
	s.Field("Name", o.Name)
	s.Field("Role", o.Role)
	s.Field("Created by", o.CreatedBy)
	s.Block("Certificate", func(s *show.Sheet) {
		s.Field("Lifetime", o.TTL.String())
		s.Field("Serial", o.Certificate.Serial)
		if o.Certificate.NotAfter != nil {
			s.Field("Expires", o.Certificate.NotAfter.Format(time.RFC3339))
		}
	})
	return s
}
