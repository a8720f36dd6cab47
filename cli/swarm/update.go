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

func update(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "update",
		Usage: "change the settings of the swarm",
		Flags: append(settingFlags(false),
			externalFlag("where the root signs from now on, whose key is at an external CA"),
			conn.TimeoutFlag(conn.ForAnswer),
		),
		Action: func(c *cli.Context) error {
			given, err := set(c, &modelv1.ClusterSpec{}) // refused before anybody is asked
			if err != nil {
				return err
			}
			if _, err := readExternal(c.StringSlice("external-ca")); err != nil {
				return err
			}
			if !given && !c.IsSet("external-ca") {
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
		if req.External, err = readExternal(c.StringSlice("external-ca")); err != nil {
			return err
		}
		if err := checkPulse(req.GetSpec()); err != nil {
			return err
		}
		api.Waiting("the swarm to take its new settings")
		_, err = conn.Change(ctx, api, controlv1.ControlClient.UpdateCluster, req)
		if err == nil {
			return updated(ctx, api, !resp.GetCluster().GetSpec().GetAutolock() && req.GetSpec().GetAutolock())
		}
		if try == changeTries || !errdefs.IsConflict(err) && !errdefs.IsAborted(err) {
			return err
		}
	}
}

// updated says that it is done, and the unlock key if there is one now.
func updated(ctx context.Context, api *conn.Conn, locked bool) error {
	s := api.Streams()
	if err := s.Data("Swarm updated."); err != nil || !locked {
		return err
	}
	key, _, err := getUnlockKey(ctx, api, false)
	if err != nil {
		return say.Hinted(err, `managers are locked from now on; see the key with "ctl swarm unlock-key"`)
	}
	return tellUnlockKey(s, key)
}
