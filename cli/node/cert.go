package node

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var certTable = show.Table{
	Columns: []show.Column{
		{Field: "Node", Header: "NODE"}, {Field: "Hostname", Header: "HOSTNAME"}, {Field: "Role", Header: "ROLE"},
		{Field: "Serial", Header: "SERIAL"}, {Field: "Generation", Header: "GENERATION"}, {Field: "Status", Header: "STATUS"},
		{Field: "Expires", Header: "EXPIRES"}, {Field: "Renews", Header: "RENEWS"},
		{Field: "NotBefore", Header: "NOT BEFORE"}, {Field: "NotAfter", Header: "NOT AFTER"},
		{Field: "RenewsFrom", Header: "RENEWS FROM"}, {Field: "RenewsBy", Header: "RENEWS BY"},
		{Field: "Superseded", Header: "SUPERSEDED"}, {Field: "Issuer", Header: "ISSUER"}, {Field: "Key", Header: "KEY"},
	},
	Default: []show.Cell{
		{Text: "{{.Hostname}}", Least: 12}, {Text: "{{.Serial}}", Short: "{{truncate .Serial 12}}", Gives: 4},
		{Text: "{{.Role}}", Gives: 1}, {Text: "{{.Status}}"}, {Text: "{{.Expires}}"}, {Text: "{{.Renews}}", Gives: 2},
		{Text: "{{truncate .Issuer 12}}", Gives: 3},
	},
	Quiet: "Serial",
}

func cert(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "cert",
		Usage:       "list the certificates of nodes",
		Subcommands: []*cli.Command{certLs(s)},
	}
}

func certLs(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Aliases:   []string{"list"},
		Usage:     "list the certificates that nodes have, and those they had before",
		ArgsUsage: "[self|NODE...]",
		Flags:     append(show.ListFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			nodes, clock, missing, err := certNodes(ctx, api, c.Args().Slice())
			if err != nil {
				return err
			}
			if err := certTable.Print(s.Out, show.LookOf(s, c), certRows(nodes, clock)); err != nil {
				return err
			}
			return missing
		}),
	}
}

// certNodes reads the nodes that refs name, all if there are none, and the clock
// of the manager that knows them. missing says which of the refs name nothing.
func certNodes(ctx context.Context, api *conn.Conn, refs []string) (nodes []*modelv1.Node, clock time.Time, missing, err error) {
	if len(refs) == 0 {
		resp, err := conn.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{})
		views := slices.Clone(resp.GetNodes())
		slices.SortStableFunc(views, func(a, b *controlv1.NodeView) int { return show.Natural(hostname(a), hostname(b)) })
		for _, v := range views {
			nodes = append(nodes, v.GetNode())
		}
		return nodes, time.Unix(0, resp.GetClock()), nil, err
	}
	missing = conn.Each(ctx, refs, func(ctx context.Context, ref string) error {
		resp, err := get(ctx, api, ref)
		if err == nil {
			nodes, clock = append(nodes, resp.GetNode().GetNode()), time.Unix(0, resp.GetClock())
		}
		return err
	})
	return nodes, clock, missing, nil
}

// certRows shows the current certificate of each node, and the one before it.
func certRows(nodes []*modelv1.Node, clock time.Time) []show.Row {
	var rows []show.Row
	for _, n := range nodes {
		for _, c := range []*modelv1.Certificate{n.GetCurrent(), n.GetPrevious()} {
			if c != nil {
				rows = append(rows, certRow(n, c, clock))
			}
		}
	}
	return rows
}

func certRow(n *modelv1.Node, c *modelv1.Certificate, clock time.Time) show.Row {
	row := show.Row{
		"Node": show.ID(n.GetId()), "Hostname": n.GetDescription().GetHostname(), "Role": role(c.GetRole()),
		"Serial": hex.EncodeToString(c.GetSerial()), "Generation": c.GetGeneration(), "Status": certStatus(n, c, clock),
		"Expires": "", "Renews": "", "RenewsFrom": "", "RenewsBy": "",
		"NotBefore": stamp(c.GetNotBefore()), "NotAfter": stamp(c.GetNotAfter()), "Superseded": stamp(c.GetSupersededAt()),
		"Issuer": hex.EncodeToString(c.GetIssuer()), "Key": digest(c.GetKeySha256()),
	}
	if c.GetNotAfter() == 0 {
		return row
	}
	end := time.Unix(0, c.GetNotAfter())
	row["Expires"] = when(end, clock)
	if c == n.GetCurrent() && c.GetIssuedAt() != 0 {
		from, by := ca.RenewWindow(time.Unix(0, c.GetIssuedAt()), end)
		row["RenewsFrom"], row["RenewsBy"] = stamp(from.UnixNano()), stamp(by.UnixNano())
		row["Renews"] = renews(from, by, clock)
	}
	return row
}

// certStatus is what a certificate is good for, in a word.
func certStatus(n *modelv1.Node, c *modelv1.Certificate, clock time.Time) string {
	switch {
	case c.GetGeneration() <= n.GetRevoked():
		return "revoked"
	case c != n.GetCurrent():
		return "superseded"
	case c.GetNotAfter() != 0 && clock.UnixNano() > c.GetNotAfter():
		return "expired"
	case clock.UnixNano() < c.GetNotBefore():
		return "not valid yet"
	}
	return "live"
}

// renews says when a node asks for its next certificate: it draws the moment in a
// window by itself.
func renews(from, by, clock time.Time) string {
	switch {
	case clock.After(by):
		return "late since " + show.Age(clock.Sub(by))
	case clock.After(from):
		return "within " + show.Age(by.Sub(clock))
	}
	return "in " + show.Age(from.Sub(clock)) + " to " + show.Age(by.Sub(clock))
}

// when is a moment seen from another: "in 3 days", "2 hours ago".
func when(at, clock time.Time) string {
	if d := at.Sub(clock); d >= 0 {
		return "in " + show.Age(d)
	}
	return show.Age(clock.Sub(at)) + " ago"
}

// stamp is a moment as scripts read it, "" for none.
func stamp(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339)
}
