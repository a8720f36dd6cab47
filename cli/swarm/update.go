package swarm

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// changeTries is how often a change is made anew from what the settings have
// become meanwhile.
const changeTries = 10

var unservedUpdate = map[string]string{"autolock": "locking a manager is", "external-ca": "an external CA is"}

func update(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "update",
		Usage: "change the settings of the swarm",
		Flags: append(settingFlags(false),
			&cli.BoolFlag{Name: "autolock", Hidden: true},
			&cli.StringSliceFlag{Name: "external-ca", Hidden: true},
			conn.TimeoutFlag(conn.ForAnswer),
		),
		Action: func(c *cli.Context) error {
			if err := refuse(c, unservedUpdate); err != nil {
				return err
			}
			given, err := set(c, &modelv1.ClusterSpec{}) // refused before anybody is asked
			if err != nil {
				return err
			}
			if !given {
				cli.HelpPrinter(s.Out, cli.CommandHelpTemplate, c.Command)
				return nil
			}
			return conn.With(s, change)(c)
		},
	}
}

// change reads the settings and changes what was given; if somebody else changed
// them meanwhile, from what they are then.
func change(ctx context.Context, c *cli.Context, api *conn.Conn) error {
	for try := 1; ; try++ {
		resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetCluster, &controlv1.GetClusterRequest{})
		if err != nil {
			return err
		}
		req := &controlv1.UpdateClusterRequest{
			RequestId: conn.RequestID(), Version: resp.GetCluster().GetMeta().GetVersion(), Spec: &modelv1.ClusterSpec{},
		}
		proto.Merge(req.Spec, resp.GetCluster().GetSpec())
		if _, err := set(c, req.GetSpec()); err != nil {
			return err
		}
		if err := checkPulse(req.GetSpec()); err != nil {
			return err
		}
		api.Waiting("the swarm to take its new settings")
		_, err = conn.Change(ctx, api, controlv1.ControlClient.UpdateCluster, req)
		if err == nil {
			return api.Streams().Data("Swarm updated.")
		}
		if try == changeTries || !errdefs.IsConflict(err) && !errdefs.IsAborted(err) {
			return err
		}
	}
}
