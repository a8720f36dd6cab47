package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/metrics"
	"github.com/skep-project/skep/internal/node"
)

// run is the daemon until its context ends. It logs to the program's error
// output. The environment is for what a packager sets once, not an operator.
func run(c *cli.Context, s *say.Streams) error {
	if err := keepMemory(); err != nil {
		return err
	}
	log, level, err := newLog(s.Err, c.String("log-level"), c.String("log-format"), s.Getenv("JOURNAL_STREAM"))
	if err != nil {
		return err
	}
	if c.Args().Present() {
		return say.Misuse("daemon: unexpected argument %q", c.Args().First())
	}
	told, err := metricsAddress(c.String("metrics-addr"), c.Bool("metrics-allow-remote"))
	if err != nil {
		return err
	}
	fips, module, err := fipsMode()
	switch {
	case err != nil:
		return err
	case c.Bool("fips") && !fips:
		return startInFIPS()
	}
	giveRoom(s.Getenv)
	ctx, hostDown, stop := untilPowerFails(c.Context)
	defer stop()
	toggleDebug(ctx, log, level)
	return node.Run(ctx, node.Config{
		StateDir: c.String("state-dir"), RunDir: c.String("run-dir"),
		Hostname: c.String("hostname"), Advertise: c.String("advertise-addr"), Containerd: c.String("containerd"),
		HostsDir: s.Getenv("SKEP_HOSTS_DIR"), CgroupParent: s.Getenv("SKEP_CGROUP_PARENT"),
		BootIDFile: s.Getenv("SKEP_BOOT_ID_FILE"), HostDown: hostDown, Metrics: told, Log: log,
		UnlockCommand: c.String("unlock-command"), UnlockEnv: unlockEnv(s.Getenv),
		FIPS: fips, FIPSModule: module,
	}, func() { log.Info("daemon is ready", "run_dir", c.String("run-dir")) })
}

// unlockEnv is all that an unlock command is given of the daemon's environment:
// where programs are, and where systemd put the unit's credentials.
func unlockEnv(getenv func(string) string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"CREDENTIALS_DIRECTORY"} {
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// metricsAddress reads where metrics are told. Who reaches that address reads
// them, so it is of this host unless remote says that others may.
func metricsAddress(text string, remote bool) (metrics.Address, error) {
	a, err := metrics.ParseAddress(text)
	switch {
	case err != nil:
		return a, say.Misuse("metrics-addr %v", err)
	case a.IsZero() && remote:
		return a, say.Misuse("metrics-allow-remote says nothing without --metrics-addr")
	case !a.IsZero() && !a.Local() && !remote:
		return a, say.Misuse("metrics-addr %s: other hosts reach it, and there is no password and no TLS; use 127.0.0.1, or add --metrics-allow-remote", a)
	}
	return a, nil
}

// untilPowerFails returns a context that also ends with SIGPWR, by which the
// unit's shutdown hook says that the whole host goes down, and a channel that is
// closed in that case alone.
func untilPowerFails(ctx context.Context) (context.Context, <-chan struct{}, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	down, power := make(chan struct{}), make(chan os.Signal, 1)
	signal.Notify(power, syscall.SIGPWR)
	go func() { // ends with ctx, which run's return ends
		defer signal.Stop(power)
		select {
		case <-power:
			close(down)
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, down, stop
}
