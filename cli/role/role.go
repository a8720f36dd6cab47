// Package role is "ctl role": what the roles of users allow.
//
// It owns the words and columns of roles. What a role gives is rpc's table over the
// policies beside the methods; it is part of the program, so no manager is asked.
package role

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Command returns "ctl role".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "role",
		Usage:       "see what the roles of users allow",
		Subcommands: []*cli.Command{inspect(s), ls(s)},
	}
}

// summaries say in a few words what a role is for.
var summaries = map[modelv1.UserRole]string{
	modelv1.UserRole_USER_ROLE_VIEWER:   "looks at everything but tokens, keys and users",
	modelv1.UserRole_USER_ROLE_OPERATOR: "looks, and runs services",
	modelv1.UserRole_USER_ROLE_ROTATOR:  "replaces join tokens, the unlock key and the root, for jobs",
	modelv1.UserRole_USER_ROLE_ADMIN:    "everything",
}

var table = show.Table{
	Columns: []show.Column{{Field: "Name", Header: "NAME"}, {Field: "Deeds", Header: "DEEDS"}, {Field: "Summary", Header: "MAY"}},
	Default: []show.Cell{{Text: "{{.Name}}"}, {Text: "{{.Deeds}}"}, {Text: "{{.Summary}}", Least: 20}},
	Quiet:   "Name",
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the roles",
		Flags:   show.ListFlags(),
		Action: func(c *cli.Context) error {
			var rows []show.Row
			for _, r := range rpc.Roles() {
				o, err := newObject(r)
				if err != nil {
					return err
				}
				rows = append(rows, show.Row{"Name": o.Name, "Deeds": len(o.Deeds), "Summary": o.Summary})
			}
			return table.Print(s.Out, show.LookOf(s, c), rows)
		},
	}
}

// object is a role as inspect prints it; the set only grows.
type object struct {
	Name    string
	Summary string
	Deeds   []deed
}

// deed is one thing that a role allows: a method, in the words of refusals.
type deed struct {
	May    string
	Method string
	// Limit is what the role does not get of it; empty: it gets all.
	Limit string `json:",omitempty"`
}

func newObject(r modelv1.UserRole) (object, error) {
	o := object{Name: rpc.RoleName(r), Summary: summaries[r]}
	all, err := rpc.Deeds(&controlv1.Control_ServiceDesc)
	if err != nil {
		return o, err
	}
	for _, d := range all {
		if !d.For(r) {
			continue
		}
		limit := d.Limit
		if r == modelv1.UserRole_USER_ROLE_ADMIN {
			limit = ""
		}
		o.Deeds = append(o.Deeds, deed{May: d.Words, Method: d.Method, Limit: limit})
	}
	return o, nil
}

func inspect(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show what roles allow, thing by thing",
		ArgsUsage: "ROLE...",
		Flags:     show.InspectFlags(),
		Before: func(c *cli.Context) error {
			if !c.Args().Present() {
				return say.Hinted(say.Misuse("role inspect: no role given"), `"ctl role ls" lists them`)
			}
			return show.CheckInspect(c)
		},
		Action: func(c *cli.Context) error {
			var found []object
			for _, name := range c.Args().Slice() {
				o, err := find(name)
				if err != nil {
					return err
				}
				found = append(found, o)
			}
			return show.Objects(s.Out, c, found, pretty)
		},
	}
}

func find(name string) (object, error) {
	var names []string
	for _, r := range rpc.Roles() {
		if rpc.RoleName(r) == name {
			return newObject(r)
		}
		names = append(names, rpc.RoleName(r))
	}
	return object{}, say.Hinted(fmt.Errorf("there is no role %q", name), "there are "+strings.Join(names, ", "))
}

func pretty(o object) *show.Sheet {
	s := &show.Sheet{}
	s.Field("Name", o.Name)
	s.Field("For", o.Summary)
	s.Block("May", func(s *show.Sheet) {
		for _, d := range o.Deeds {
			if d.Limit != "" {
				s.Line(d.May + ": " + d.Limit)
				continue
			}
			s.Line(d.May)
		}
	})
	return s
}
