package swarm

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Bounds of what init takes: below them a swarm cannot work.
const (
	minCertExpiry = time.Hour
	minHeartbeat  = 100 * time.Millisecond
	leaseBeats    = 5 // a lease lasts this many heartbeats, as the defaults do
)

var unservedInit = map[string]string{
	"autolock": "locking a manager is", "data-path-addr": "overlay networks are", "data-path-port": "overlay networks are",
	"default-addr-pool": "overlay networks are", "default-addr-pool-mask-length": "overlay networks are",
	"external-ca": "an external CA is",
}

func initialise(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a swarm with this node as its first manager",
		Flags: append(addressFlags(),
			&cli.BoolFlag{Name: "force-new-cluster", Usage: "make this manager the only one of its own swarm, when the others are lost for good"},
			&cli.DurationFlag{Name: "cert-expiry", Value: 90 * 24 * time.Hour, Usage: "`TIME` a node's certificate lives"},
			&cli.DurationFlag{Name: "dispatcher-heartbeat", Value: 2 * time.Second, Usage: "`TIME` between two beats of a node"},
			&cli.StringFlag{Name: "task-history-limit", Value: "5", Usage: "`NUMBER` of tasks kept for each slot"},
			&cli.StringFlag{Name: "snapshot-interval", Value: "10000", Usage: "`NUMBER` of log entries between snapshots"},
			&cli.StringFlag{Name: "max-snapshots", Value: "0", Usage: "`NUMBER` of older snapshots kept"},
			&cli.BoolFlag{Name: "autolock", Hidden: true},
			&cli.StringFlag{Name: "data-path-port", Hidden: true},
			&cli.StringSliceFlag{Name: "default-addr-pool", Hidden: true},
			&cli.StringFlag{Name: "default-addr-pool-mask-length", Hidden: true},
			&cli.StringSliceFlag{Name: "external-ca", Hidden: true},
			conn.TimeoutFlag(conn.ForMembership),
		),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			req, err := initRequest(c)
			if err != nil {
				return err
			}
			api.Waiting("the daemon to make the swarm")
			resp, err := conn.Ask(ctx, api, localv1.LocalClient.Init, req)
			if err != nil {
				return err
			}
			return initialised(s, resp, req.GetForceNewCluster())
		}),
	}
}

func initRequest(c *cli.Context) (*localv1.InitRequest, error) {
	if err := refuse(c, unservedInit); err != nil {
		return nil, err
	}
	a, err := availability(c)
	if err != nil {
		return nil, err
	}
	spec, err := clusterSpec(c)
	if err != nil {
		return nil, err
	}
	return &localv1.InitRequest{
		AdvertiseAddr:   c.String("advertise-addr"),
		ListenAddr:      c.String("listen-addr"),
		Availability:    a,
		ForceNewCluster: c.Bool("force-new-cluster"),
		Spec:            spec,
	}, nil
}

// clusterSpec holds what was given; the rest is zero, which is the default.
func clusterSpec(c *cli.Context) (*modelv1.ClusterSpec, error) {
	spec := &modelv1.ClusterSpec{}
	if c.IsSet("cert-expiry") {
		d := c.Duration("cert-expiry")
		if d < minCertExpiry {
			return nil, say.Misuse("--cert-expiry %v: want at least %v", d, minCertExpiry)
		}
		spec.CertExpiry = int64(d)
	}
	if c.IsSet("dispatcher-heartbeat") {
		d := c.Duration("dispatcher-heartbeat")
		if d < minHeartbeat || d > time.Hour {
			return nil, say.Misuse("--dispatcher-heartbeat %v: want %v to %v", d, minHeartbeat, time.Hour)
		}
		spec.HeartbeatPeriod, spec.Lease = int64(d), int64(leaseBeats*d)
	}
	history, err := strconv.ParseInt(c.String("task-history-limit"), 10, 32)
	if err != nil {
		return nil, say.Misuse("--task-history-limit %q: want a whole number", c.String("task-history-limit"))
	}
	interval, err := strconv.ParseUint(c.String("snapshot-interval"), 10, 32)
	if err != nil || interval == 0 {
		return nil, say.Misuse("--snapshot-interval %q: want a whole number from 1 up", c.String("snapshot-interval"))
	}
	old, err := strconv.ParseUint(c.String("max-snapshots"), 10, 16)
	if err != nil {
		return nil, say.Misuse("--max-snapshots %q: want a whole number from 0 up", c.String("max-snapshots"))
	}
	if c.IsSet("task-history-limit") {
		spec.TaskHistory = history
	}
	if c.IsSet("snapshot-interval") {
		spec.SnapshotInterval = interval
	}
	spec.OldSnapshots = old
	return spec, nil
}

func initialised(s *say.Streams, resp *localv1.InitResponse, forced bool) error {
	kept := ""
	if forced {
		kept = "It is the only manager now; services, ids, tokens and the CA are what they were.\n\n"
	}
	_, err := fmt.Fprintf(s.Out, `Swarm initialized: current node (%s) is now a manager.

%sTo add a worker to this swarm, run the following command:

    ctl swarm join --token %s %s

To add a manager to this swarm, run 'ctl swarm join-token manager' and follow the instructions.

`, show.ID(resp.GetNode()), kept, resp.GetWorkerToken(), resp.GetAddress())
	return err
}
