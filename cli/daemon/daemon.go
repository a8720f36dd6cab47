// Package daemon is the command "ctl daemon": the process on each host.
//
// It owns the daemon's flags and hands them over; what the process does is
// internal/node's.
package daemon

import (
	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// Command returns the command.
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "daemon",
		Usage: "run the daemon of this host",
		Description: "The daemon is this host's part of a swarm: the agent that runs containers, and the manager where the host is one. " +
			"It runs until SIGTERM or SIGINT; containers go on, and are taken up again by the next daemon.\n" +
			"SIGPWR tells it that the whole host goes down, so that what runs here is replaced elsewhere at once.",
		Flags:  Flags(),
		Action: func(c *cli.Context) error { return run(c, s) },
	}
}

// Flags returns the daemon's flags.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "state-dir", Value: "/var/lib/skep", Usage: "`DIR` that holds what must survive a restart"},
		&cli.StringFlag{Name: "run-dir", Value: "/run/skep", Usage: "`DIR` of the socket that ctl talks to"},
		&cli.StringFlag{Name: "hostname", Usage: "`NAME` of this node (default: the host's own)"},
		&cli.StringFlag{Name: "advertise-addr", Usage: "`ADDRESS` others reach this node at from now on: IP[:PORT] or an interface (default: as at init or join)"},
		&cli.StringFlag{Name: "containerd", Usage: "`ADDRESS` of a containerd to use (default: a private one is started)"},
		&cli.StringFlag{Name: "unlock-command", Usage: "shell `COMMAND` that prints the unlock key of a manager that starts locked, for instance with systemd-creds (default: \"ctl swarm unlock\" is waited for)"},
		&cli.BoolFlag{Name: "fips", Usage: "run with the cryptography in FIPS 140-3 mode, which a swarm may ask for (ctl swarm init --fips)"},
		&cli.StringFlag{Name: "metrics-addr", Usage: "`ADDRESS` that tells metrics and health to whoever asks: IP:PORT or unix:PATH, for instance 127.0.0.1:9323 (default: none)"},
		&cli.BoolFlag{Name: "metrics-allow-remote", Usage: "let --metrics-addr be one that other hosts reach; there is no password and no TLS"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
	}
}
