// Package cli is ctl: the command tree and how a run of it ends.
//
// It owns the root of the tree, "ctl info" and "ctl version". Each noun has a
// package of its own below; the daemon is cli/daemon's.
package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/argv"
	"github.com/skep-project/skep/cli/audit"
	"github.com/skep-project/skep/cli/completion"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/contexts"
	"github.com/skep-project/skep/cli/daemon"
	"github.com/skep-project/skep/cli/events"
	"github.com/skep-project/skep/cli/man"
	"github.com/skep-project/skep/cli/node"
	"github.com/skep-project/skep/cli/role"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/service"
	"github.com/skep-project/skep/cli/swarm"
	"github.com/skep-project/skep/cli/user"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
)

// Main runs ctl with args (the program's name first) and returns its exit code:
// 0 done, 1 refused, 2 misused, 3 unreachable. ctx ends when the user interrupts.
func Main(ctx context.Context, args []string, streams say.Streams) int {
	s := streams.Filled()
	return say.Report(s.Err, run(ctx, args, s), rpc.HintOf)
}

func run(ctx context.Context, args []string, s *say.Streams) error {
	app := newApp(s)
	ordered, err := argv.Order(app, closed, args[min(1, len(args)):])
	if err != nil {
		return err
	}
	return app.RunContext(ctx, append([]string{app.Name}, ordered...))
}

func newApp(s *say.Streams) *cli.App {
	app := &cli.App{
		Name:        "ctl",
		Usage:       "run and operate a swarm of containers",
		Flags:       append(conn.RootFlags(), helpFlag(), &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "show the version of ctl"}),
		Action:      rootAction(s),
		HideHelp:    true, // every command has a help flag of its own: the library's is shared and written to
		HideVersion: true,
		Commands: []*cli.Command{swarm.Command(s), node.Command(s), service.Command(s), events.Command(s), audit.Command(s), user.Command(s), role.Command(s), contexts.Command(s), infoCommand(s), versionCommand(s), daemon.Command(s),
			completion.Command(s), completion.Answer(s, completer(s)), man.Command(s, func() *cli.App { return newApp(s) })},
		Reader:                    s.In,
		Writer:                    s.Out,
		ErrWriter:                 s.Err,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true, // a constraint or a mount may hold commas
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              misused,
	}
	quiet(app.Commands)
	return app
}

func helpFlag() cli.Flag {
	return &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show this", DisableDefaultText: true}
}

// rootAction is ctl without a command: its version or its help.
func rootAction(s *say.Streams) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Bool("version") {
			return s.Data("ctl version %s", version.Version)
		}
		return cli.ShowAppHelp(c)
	}
}

// quiet makes every command leave its errors to Main, gives it its help flag and
// takes away the "help" command, which would take an argument of that name.
func quiet(commands []*cli.Command) {
	for _, c := range commands {
		for _, f := range c.Flags {
			if b, ok := f.(*cli.BoolFlag); ok && !b.Value {
				b.DisableDefaultText = true // a flag that is off is off
			}
		}
		c.HideHelp, c.HideHelpCommand = true, true
		c.Flags = append(c.Flags, helpFlag())
		c.OnUsageError = misused
		quiet(c.Subcommands)
	}
}

func misused(_ *cli.Context, err error, _ bool) error { return say.Misuse("%v", err) }

// closed: behind the image everything is the container's.
func closed(path string) bool { return path == "service create" }

// asked bounds what a shell waits for names while somebody types.
const asked = "1s"

// completer lets a shell ask what may be typed. Names are those that ctl's own
// lists print; where they print none there are none.
func completer(s *say.Streams) completion.Completer {
	return completion.Completer{
		App: func() *cli.App { return newApp(s) }, Closed: closed,
		Ask: func(ctx context.Context, args ...string) string {
			var out bytes.Buffer
			quiet := *s
			quiet.Out, quiet.Err = &out, io.Discard
			if run(ctx, append([]string{"ctl"}, append(args, "--timeout", asked)...), &quiet) != nil {
				return ""
			}
			return out.String()
		},
	}
}

// lines writes each line that is not empty.
func lines(w io.Writer, text ...string) error {
	for _, l := range text {
		if l == "" {
			continue
		}
		if _, err := fmt.Fprintln(w, l); err != nil {
			return err
		}
	}
	return nil
}
