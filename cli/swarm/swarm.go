// Package swarm is "ctl swarm": making a swarm, joining and leaving it, its settings,
// saving it and bringing it back.
//
// It owns the words of membership, and the sealing of a backup: what a daemon
// gives is sealed here before it touches a disk, and opened here. What a node must
// do to be a member is the daemon's.
package swarm

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/token"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// DefaultPort is where managers are joined at.
const DefaultPort = "2377"

// Command returns "ctl swarm".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "swarm",
		Usage:       "make, join, change, leave, save and restore a swarm",
		Subcommands: []*cli.Command{rootCA(s), initialise(s), join(s), joinToken(s), leave(s), token.Command(s), update(s), unlock(s), unlockKey(s), save(s), restore(s)},
	}
}

// addressFlags are those of a node that becomes a member.
func addressFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "advertise-addr", Usage: "`ADDRESS` others reach this node at: IP[:PORT] or an interface"},
		&cli.StringFlag{Name: "listen-addr", Value: "0.0.0.0:" + DefaultPort, Usage: "`ADDRESS` to listen at"},
		&cli.StringFlag{Name: "availability", Value: "active", Usage: "active, pause or drain"},
		&cli.StringFlag{Name: "data-path-addr", Hidden: true},
	}
}

func availability(c *cli.Context) (modelv1.Availability, error) {
	a, ok := modelv1.Availability_value["AVAILABILITY_"+strings.ToUpper(c.String("availability"))]
	if !ok || a == 0 {
		return 0, say.Misuse("--availability %q: want active, pause or drain", c.String("availability"))
	}
	return modelv1.Availability(a), nil
}

// refuse names flags that Swarm has and this version does not serve.
func refuse(c *cli.Context, flags map[string]string) error {
	for name, what := range flags {
		if c.IsSet(name) {
			return say.Hinted(say.Misuse("--%s: %s not served by this version", name, what), "leave --"+name+" out")
		}
	}
	return nil
}
