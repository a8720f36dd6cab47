package token

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "ID", Header: "ID"}, {Field: "Role", Header: "ROLE"}, {Field: "Status", Header: "STATUS"}, {Field: "Uses", Header: "USES"},
		{Field: "Expires", Header: "EXPIRES"}, {Field: "Created", Header: "CREATED"}, {Field: "CreatedBy", Header: "CREATED BY"},
		{Field: "Description", Header: "DESCRIPTION"},
	},
	Default: []show.Cell{
		{Text: "{{.ID}}", Short: "{{truncate .ID 12}}"},
		{Text: "{{.Role}}"}, {Text: "{{.Status}}"}, {Text: "{{.Uses}}"}, {Text: "{{.Expires}}", Gives: 2},
		{Text: "{{.Created}}", Gives: 1}, {Text: "{{.Description}}", Least: 12, Gives: 3},
	},
	Quiet: "ID",
}

// filters are what a list of tokens is narrowed by.
var filters = map[string]func(t *modelv1.JoinToken, now time.Time, want string) bool{
	"id": func(t *modelv1.JoinToken, _ time.Time, want string) bool {
		return strings.HasPrefix(show.ID(t.GetId()), want)
	},
	"role":   func(t *modelv1.JoinToken, _ time.Time, want string) bool { return role(t.GetRole()) == want },
	"status": func(t *modelv1.JoinToken, now time.Time, want string) bool { return status(t, now) == want },
	"label": func(t *modelv1.JoinToken, _ time.Time, want string) bool {
		key, value, whole := strings.Cut(want, "=")
		have, ok := t.GetLabels()[key]
		return ok && (!whole || have == value)
	},
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the join tokens, those that are over too as long as they are remembered",
		Flags: append(show.ListFlags(),
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "`KEY=VALUE` that what is shown must meet; KEY is id, label, role or status (active, used, expired, revoked)"},
			conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before: func(c *cli.Context) error {
			_, err := narrow(c)
			return err
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			passes, err := narrow(c)
			if err != nil {
				return err
			}
			resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListTokens, &controlv1.ListTokensRequest{})
			if err != nil {
				return err
			}
			return table.Print(s.Out, show.LookOf(s, c), rows(resp.GetTokens(), time.Unix(0, resp.GetNow()), passes))
		}),
	}
}

// narrow reads the filters: of one key any, of different keys all must hold.
func narrow(c *cli.Context) (func(t *modelv1.JoinToken, now time.Time) bool, error) {
	want := make(map[string][]string)
	for _, text := range c.StringSlice("filter") {
		key, value, ok := strings.Cut(text, "=")
		if filters[key] == nil || !ok || value == "" {
			return nil, say.Hinted(say.Misuse("swarm token ls: filter %q: want KEY=VALUE", text), "filters are id, label, role, status")
		}
		want[key] = append(want[key], value)
	}
	return func(t *modelv1.JoinToken, now time.Time) bool {
		for key, values := range want {
			if !slices.ContainsFunc(values, func(v string) bool { return filters[key](t, now, v) }) {
				return false
			}
		}
		return true
	}, nil
}

// rows are in the order in which the tokens were made.
func rows(tokens []*modelv1.JoinToken, now time.Time, passes func(*modelv1.JoinToken, time.Time) bool) []show.Row {
	tokens = slices.Clone(tokens)
	slices.SortStableFunc(tokens, func(a, b *modelv1.JoinToken) int {
		return cmp.Compare(a.GetMeta().GetCreatedAt(), b.GetMeta().GetCreatedAt())
	})
	out := make([]show.Row, 0, len(tokens))
	for _, t := range tokens {
		if !passes(t, now) {
			continue
		}
		out = append(out, show.Row{
			"ID": show.ID(t.GetId()), "Role": role(t.GetRole()), "Status": status(t, now),
			"Uses":    fmt.Sprintf("%d/%d", len(t.GetUsed()), t.GetUses()),
			"Expires": expires(t.GetExpiresAt(), now), "Created": show.Ago(t.GetMeta().GetCreatedAt(), now.UnixNano()),
			"CreatedBy": t.GetCreatedBy(), "Description": t.GetDescription(),
		})
	}
	return out
}

// expires is when a token ends, as lists show it.
func expires(at int64, now time.Time) string {
	left := time.Unix(0, at).Sub(now)
	if left < 0 {
		return show.Age(-left) + " ago"
	}
	return "in " + show.Age(left)
}
