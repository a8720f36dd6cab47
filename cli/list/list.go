// Package list is the verb "ls" that every noun has.
//
// It owns the way from the flags to the rows: filters are read, the swarm is
// asked, what came is put in order and printed. Which filters, columns and words
// there are is the noun's.
package list

import (
	"cmp"
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// A List is what one noun's "ls" is made of: V is what the swarm shows of one
// object.
type List[V any] struct {
	Usage   string
	Filters show.Filters
	Table   show.Table
	// Ask asks the swarm.
	Ask func(ctx context.Context, api *conn.Conn, filter *controlv1.Filter) ([]V, error)
	// Name is what the list is ordered by, as people order names, and ID what
	// objects of one name are ordered by.
	Name func(V) string
	ID   func(V) []byte
	Row  func(V) show.Row
}

// Command returns the command.
func Command[V any](s *say.Streams, l List[V]) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   l.Usage,
		Flags:   append(l.Filters.ListFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			filter, err := l.Filters.Read(c)
			if err != nil {
				return err
			}
			objects, err := l.Ask(ctx, api, filter)
			if err != nil {
				return err
			}
			return l.Table.Print(s.Out, show.LookOf(s, c), l.rows(objects))
		}),
	}
}

func (l List[V]) rows(objects []V) []show.Row {
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b V) int {
		return cmp.Or(show.Natural(l.Name(a), l.Name(b)), slices.Compare(l.ID(a), l.ID(b)))
	})
	rows := make([]show.Row, 0, len(objects))
	for _, o := range objects {
		rows = append(rows, l.Row(o))
	}
	return rows
}
