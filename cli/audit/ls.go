package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/events"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list what was done, refused and shown, the oldest first",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "begin at `MOMENT`: a time, how long ago (10m), or behind a record (@123)"},
			&cli.StringFlag{Name: "until", Usage: "end at `MOMENT`: a time, or how long ago"},
			&cli.StringSliceFlag{Name: "user", Usage: "`WHO` asked: a user (alice, uid:0), a node (node:ID), swarm or anyone; may be given more than once"},
			&cli.StringSliceFlag{Name: "object", Usage: "`OBJECT` that was changed: its name, the beginning of its id, or KIND:NAME; may be given more than once"},
			&cli.StringSliceFlag{Name: "did", Usage: "`DEED`: CreateService, Enroll and the like; may be given more than once"},
			&cli.BoolFlag{Name: "refused", Usage: "show only what was refused"},
			&cli.UintFlag{Name: "tail", Aliases: []string{"n"}, Usage: "show the newest `N` of those there are"},
			&cli.BoolFlag{Name: "follow", Usage: "go on with what comes"},
			&cli.StringFlag{Name: "format", Usage: "table, \"table `TEMPLATE`\", json (the records as they are) or a template"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "show ids and reasons whole"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Before: func(c *cli.Context) error {
			_, err := request(c, s.Now())
			return err
		},
		Action: conn.Endless(s, func(ctx context.Context, c *cli.Context, api *conn.Conn, limit time.Duration) error {
			req, err := request(c, s.Now())
			if err != nil {
				return err
			}
			l := &lister{s: s, look: show.LookOf(s, c), whole: c.Bool("no-trunc"), live: req.GetFollow(), req: req}
			err = conn.Follow(ctx, api, controlv1.ControlClient.ReadAudit, req, limit, conn.Listener[controlv1.ReadAuditResponse]{Begin: func() {}, Take: l.take})
			if err != nil && len(l.rows) == 0 {
				return err // and not the head of a table above it
			}
			return errors.Join(err, l.flush())
		}),
	}
}

// request reads the command line.
func request(c *cli.Context, now time.Time) (*controlv1.ReadAuditRequest, error) {
	req := &controlv1.ReadAuditRequest{
		Follow: c.Bool("follow"), Tail: uint32(min(c.Uint("tail"), 1<<31)),
		Filter: &controlv1.AuditFilter{Who: c.StringSlice("user"), Objects: c.StringSlice("object"), Did: c.StringSlice("did")},
	}
	if c.Bool("refused") {
		req.Filter.Results = []string{audit.Refused}
	}
	if text := c.String("since"); text != "" {
		m, err := events.ParseMoment(text, now)
		if err != nil {
			return nil, say.Misuse("--since %s: %v", text, err)
		}
		req.Since, req.After = m.At, m.Index
	}
	if text := c.String("until"); text != "" {
		m, err := events.ParseMoment(text, now)
		if err == nil && m.Indexed {
			err = errors.New("want a time")
		}
		if err != nil {
			return nil, say.Misuse("--until %s: %v", text, err)
		}
		req.Until = m.At
	}
	return req, nil
}

// A lister prints records: as they come, or all in one table.
type lister struct {
	s     *say.Streams
	look  show.Look
	whole bool
	live  bool
	req   *controlv1.ReadAuditRequest
	rows  []show.Row
}

// take takes one message in, and moves the request on behind it.
func (l *lister) take(m *controlv1.ReadAuditResponse) error {
	l.req.After, l.req.Since, l.req.Tail = m.GetAt(), 0, 0
	if l.look.Format == "json" {
		return l.lines(m.GetLines())
	}
	for _, line := range m.GetLines() {
		r, err := audit.Parse(line)
		if err != nil {
			return err
		}
		l.rows = append(l.rows, row(&r, l.whole))
	}
	if l.live {
		return l.flush()
	}
	return nil
}

func (l *lister) lines(lines [][]byte) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(l.s.Out, "%s\n", bytes.Join(lines, []byte("\n")))
	return err
}

// flush prints what was taken. While records are followed there is no table: its
// columns would be of another width each time.
func (l *lister) flush() error {
	rows := l.rows
	l.rows = nil
	switch {
	case l.look.Format == "json" || l.live && len(rows) == 0:
		return nil
	case l.live && l.look.Format == "":
		return sentences(l.s.Out, rows)
	}
	return table.Print(l.s.Out, l.look, rows)
}

func sentences(w io.Writer, rows []show.Row) error {
	var b bytes.Buffer
	for _, r := range rows {
		b.WriteString(sentence(r) + "\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}
