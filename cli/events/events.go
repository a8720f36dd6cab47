// Package events is "ctl events": what happens in a swarm, as it happens.
//
// It owns the words and the shape of events on the screen and for scripts, and
// how a reader goes on where it stopped, at another manager if need be. Which
// change is an event is the managers'.
//
// Invariant: the events of one index are written in one go, so whoever resumes
// behind the last index it read misses nothing and reads nothing twice.
package events

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// Command returns "ctl events".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "show what happens in the swarm, as it happens",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "begin at `MOMENT`: a time, how long ago (10m), or behind an index (@123)"},
			&cli.StringFlag{Name: "until", Usage: "end at `MOMENT`: a time, or how long ago"},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, KeepSpace: true, Usage: "`KEY=VALUE` that what is shown must meet: type, event, node, service, label"},
			&cli.StringFlag{Name: "format", Usage: "json, or a `TEMPLATE`"},
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "show the states that tasks only pass through, too"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.Endless(s, func(ctx context.Context, c *cli.Context, api *conn.Conn, limit time.Duration) error {
			req, err := request(c, s.Now())
			if err != nil {
				return err
			}
			p, err := newPrinter(c.String("format"))
			if err != nil {
				return err
			}
			r := &reader{api: api, req: req, limit: limit, write: func(events []event) error { return p.print(s.Out, events) }}
			return r.run(ctx)
		}),
	}
}

// request reads the command line.
func request(c *cli.Context, now time.Time) (*controlv1.WatchEventsRequest, error) {
	req := &controlv1.WatchEventsRequest{Filter: &controlv1.EventFilter{All: c.Bool("all")}}
	if text := c.String("since"); text != "" {
		m, err := ParseMoment(text, now)
		if err != nil {
			return nil, say.Misuse("--since %s: %v", text, err)
		}
		req.Since = m.At
		if m.Indexed {
			req.After = &m.Index
		}
	}
	if text := c.String("until"); text != "" {
		m, err := ParseMoment(text, now)
		if err == nil && m.Indexed {
			err = errors.New("want a time")
		}
		if err != nil {
			return nil, say.Misuse("--until %s: %v", text, err)
		}
		req.Until = m.At
	}
	return req, filter(c, req.GetFilter())
}

// filter reads --filter.
func filter(c *cli.Context, f *controlv1.EventFilter) error {
	fields := map[string]*[]string{
		"type": &f.Types, "event": &f.Actions, "action": &f.Actions, "node": &f.Nodes, "service": &f.Services, "label": &f.Labels,
	}
	types := []string{"swarm", "node", "service", "task", "user"}
	for _, text := range c.StringSlice("filter") {
		key, value, ok := strings.Cut(text, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		field := fields[key]
		switch {
		case field == nil:
			return say.Hinted(say.Misuse("events: there is no filter %q", key), "filters are event, label, node, service, type")
		case !ok || value == "":
			return say.Misuse("events: filter %q: want %s=VALUE", text, key)
		case key == "type" && !slices.Contains(types, value):
			return say.Hinted(say.Misuse("events: filter %q: there is no such type", text), "types are "+strings.Join(types, ", "))
		}
		*field = append(*field, value)
	}
	return nil
}
