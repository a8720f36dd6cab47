// Package service is "ctl service": what a swarm runs.
//
// It owns the words and columns of services. Flags become specs in cli/spec, and
// progress is cli/progress's.
package service

import (
	"context"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/cli/spec"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// Command returns "ctl service".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "service",
		Usage: "create, change and inspect services",
		Subcommands: []*cli.Command{
			create(s), inspect(s), ls(s), ps(s), rm(s), rollback(s), scale(s), update(s),
		},
	}
}

// waitFlags are the flags of a command that waits for tasks.
func waitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait until the service has converged"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "wait without showing progress"},
		conn.TimeoutFlag(conn.ForTasks),
	}
}

// need refuses a command line without a service.
func need(c *cli.Context) error {
	if !c.Args().Present() {
		return say.Hinted(say.Misuse("%s: no service given", say.Path(c.Command.HelpName)), `"ctl service ls" lists them`)
	}
	return nil
}

func get(ctx context.Context, api *conn.Conn, ref string) (*controlv1.ServiceView, error) {
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetService, &controlv1.GetServiceRequest{Ref: ref})
	return resp.GetService(), err
}

func host(s *say.Streams) spec.Host { return spec.Host{Getenv: s.Getenv, ReadFile: os.ReadFile} }

// answer bounds a single call within a command that may take longer.
func answer(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, conn.ForAnswer, context.DeadlineExceeded)
}

// converge waits until the service with the id (25 digits) has converged.
func converge(ctx context.Context, c *cli.Context, api *conn.Conn, id, name string, goal progress.Goal) error {
	s := api.Streams()
	api.Background("ctl service ps " + name)
	w := progress.Waiter{
		Goal: goal,
		Said: func(missing string) { api.Waiting("service %s to converge: %s", name, missing) },
		Open: func(ctx context.Context, broke error) (progress.Source, error) {
			return conn.Watch(ctx, api, controlv1.ControlClient.WatchService, &controlv1.WatchServiceRequest{Ref: id}, broke)
		},
	}
	if !c.Bool("quiet") {
		w.Screen = &progress.Screen{W: s.Err}
		w.Screen.Width, _ = s.Terminal()
	}
	err := w.Wait(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return say.Hinted(err, `"ctl service ps `+name+` --no-trunc" shows why`)
}

// mode is a service's mode as lists show it.
func mode(v *controlv1.ServiceView) string {
	if v.GetService().GetSpec().GetGlobal() != nil {
		return "global"
	}
	return "replicated"
}

func idOf(v *controlv1.ServiceView) string { return show.ID(v.GetService().GetId()) }

// since is when a moment was, for the pretty form.
func since(s *say.Streams, ns int64) string {
	if ns == 0 {
		return ""
	}
	return show.Age(max(0, s.Now().Sub(time.Unix(0, ns)))) + " ago"
}
