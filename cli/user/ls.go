package user

import (
	"context"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Name", Header: "NAME"}, {Field: "Role", Header: "ROLE"},
		{Field: "Created", Header: "CREATED"}, {Field: "Expires", Header: "EXPIRES"},
	},
	Default: []show.Cell{
		{Text: "{{.ID}}"},
		{Text: "{{.Name}}"},
		{Text: "{{.Role}}"},
		{Text: "{{.Created}}"},
		{Text: "{{.Expires}}"},
	},
	Quiet: "ID",
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the users",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Usage: "table, \"table `TEMPLATE`\", json or a template"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show ids only"},
			conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListUsers, &controlv1.ListUsersRequest{})
			if err != nil {
				return err
			}
			return table.Print(s.Out, show.LookOf(s, c), rows(resp.GetUsers(), time.Unix(0, resp.GetNow())))
		}),
	}
}

func rows(users []*modelv1.User, now time.Time) []show.Row {
	users = slices.Clone(users)
	slices.SortFunc(users, func(a, b *modelv1.User) int { return show.Natural(a.GetName(), b.GetName()) })
	out := make([]show.Row, 0, len(users))
	for _, u := range users {
		out = append(out, show.Row{
			"ID": show.ID(u.GetId()), "Name": u.GetName(), "Role": rpc.RoleName(u.GetRole()),
			"Created": show.Age(max(0, now.Sub(time.Unix(0, u.GetMeta().GetCreatedAt())))) + " ago",
			"Expires": expires(u.GetCurrent().GetNotAfter(), now),
		})
	}
	return out
}

// expires is when a certificate ends, as lists show it.
func expires(notAfter int64, now time.Time) string {
	left := time.Unix(0, notAfter).Sub(now)
	if left < 0 {
		return "expired " + show.Age(-left) + " ago"
	}
	return "in " + show.Age(left)
}
