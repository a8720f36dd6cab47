package service

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/cli/spec"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func create(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "run a service on the swarm",
		ArgsUsage: "IMAGE [COMMAND] [ARG...]",
		Flags:     append(spec.CreateFlags(), waitFlags()...),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			svc, template, err := spec.Create(c, host(s), c.Args().Slice())
			if err != nil {
				return err
			}
			auth, err := credentials(ctx, c, s, template.GetContainer().GetImage(), "so the image is pulled without")
			if err != nil {
				return err
			}
			api.Waiting("the swarm to take the service")
			resp, err := send(ctx, api, controlv1.ControlClient.CreateService,
				&controlv1.CreateServiceRequest{RequestId: conn.RequestID(), Spec: svc, Template: template, RegistryAuth: auth})
			if err != nil {
				return err
			}
			s.Warnings(resp.GetWarnings())
			id := show.ID(resp.GetId())
			if err := s.Data("%s", id); err != nil || c.Bool("detach") {
				return err
			}
			name := svc.GetName()
			if name == "" {
				name = id
			}
			return converge(ctx, c, api, id, name, progress.Goal{})
		}),
	}
}

// send makes one changing call, which gets its answer in time or is given up.
func send[Q, A any](ctx context.Context, api *conn.Conn, method conn.Method[Q, A], q Q) (A, error) {
	ctx, stop := answer(ctx)
	defer stop()
	return conn.Change(ctx, api, method, q)
}
