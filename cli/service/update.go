package service

import (
	"cmp"
	"context"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/cli/spec"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// keptAuth is what becomes of an update that finds no credentials.
const keptAuth = "so the service goes on with what it has"

// changeTries is how often a change is made anew from what a service has become
// meanwhile.
const changeTries = 10

func update(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "update",
		Usage:     "change a service",
		ArgsUsage: "SERVICE",
		Flags:     append(spec.UpdateFlags(), waitFlags()...),
		Before:    oneService,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			if c.Bool("rollback") {
				return goBack(ctx, c, api)
			}
			ref := c.Args().First()
			return change(ctx, c, api, ref, func(v *controlv1.ServiceView, req *controlv1.UpdateServiceRequest) (err error) {
				req.Spec, req.Template, err = spec.Update(c, host(s), v.GetService().GetSpec(), v.GetTemplate())
				if err != nil {
					return err
				}
				image := cmp.Or(req.GetTemplate().GetContainer().GetImage(), v.GetTemplate().GetContainer().GetImage())
				req.RegistryAuth, err = credentials(ctx, c, s, image, keptAuth)
				return err
			}, func() error { return s.Data("%s", ref) })
		}),
	}
}

func rollback(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "rollback",
		Usage:     "go back to a service's previous revision",
		ArgsUsage: "SERVICE",
		Flags:     waitFlags(),
		Before:    oneService,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return goBack(ctx, c, api)
		}),
	}
}

func oneService(c *cli.Context) error {
	if err := need(c); err != nil {
		return err
	}
	if c.Args().Len() > 1 {
		return say.Misuse("%s: want one service, got %d", say.Path(c.Command.HelpName), c.Args().Len())
	}
	return nil
}

func goBack(ctx context.Context, c *cli.Context, api *conn.Conn) error {
	for _, name := range c.LocalFlagNames() {
		switch name {
		case "rollback", "detach", "d", "quiet", "q", "timeout", withAuth:
		default:
			return say.Misuse("--rollback goes back to what was: --%s cannot be changed with it", name)
		}
	}
	ref := c.Args().First()
	return change(ctx, c, api, ref, func(v *controlv1.ServiceView, req *controlv1.UpdateServiceRequest) (err error) {
		req.Rollback = true
		req.RegistryAuth, err = credentials(ctx, c, api.Streams(), v.GetPreviousTemplate().GetContainer().GetImage(), keptAuth)
		return err
	}, func() error { return api.Streams().Data("%s", ref) })
}

// An edit fills in what is to change of a service.
type edit func(v *controlv1.ServiceView, req *controlv1.UpdateServiceRequest) error

// change reads a service, changes it, says so and waits for its tasks.
func change(ctx context.Context, c *cli.Context, api *conn.Conn, ref string, fill edit, said func() error) error {
	v, goal, err := apply(ctx, api, ref, fill)
	if err != nil {
		return err
	}
	if err := said(); err != nil || c.Bool("detach") {
		return err
	}
	return converge(ctx, c, api, idOf(v), ref, goal)
}

// apply makes the change from what the service is now; if somebody else changed
// it meanwhile, from what it is then.
func apply(ctx context.Context, api *conn.Conn, ref string, fill edit) (*controlv1.ServiceView, progress.Goal, error) {
	for try := 1; ; try++ {
		v, err := get(ctx, api, ref)
		if err != nil {
			return nil, progress.Goal{}, err
		}
		req := &controlv1.UpdateServiceRequest{RequestId: conn.RequestID(), Ref: ref, Version: v.GetService().GetMeta().GetVersion()}
		if err := fill(v, req); err != nil {
			return nil, progress.Goal{}, err
		}
		api.Waiting("the swarm to take the change of service %s", ref)
		resp, err := send(ctx, api, controlv1.ControlClient.UpdateService, req)
		if err == nil {
			api.Streams().Warnings(resp.GetWarnings())
			return v, progress.Goal{Update: req.Rollback || req.Template != nil, Rollback: req.Rollback, Version: resp.GetVersion()}, nil
		}
		if try == changeTries || !errdefs.IsConflict(err) && !errdefs.IsAborted(err) {
			return nil, progress.Goal{}, err
		}
	}
}

// shortName is what people call a service: its name, else the digits of its id.
func shortName(v *controlv1.ServiceView) string {
	if n := v.GetService().GetSpec().GetName(); n != "" {
		return n
	}
	return show.ShortID(v.GetService().GetId())
}
