package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// daemonPatience bounds the time from a daemon's start to its first answer.
const daemonPatience = 60 * time.Second

// raise makes the hosts, starts their daemons and, if there is to be one, the
// swarm.
func (k *keeper) raise(ctx context.Context, c config) error {
	for n := range c.Hosts {
		h, err := k.lab.Host(fmt.Sprintf("dev%02d", n+1))
		if err != nil {
			return err
		}
		k.hosts = append(k.hosts, h)
		if err := h.Boot(ctx); err != nil {
			return err
		}
		if err := startDaemon(ctx, h); err != nil {
			return err
		}
	}
	for _, h := range k.hosts {
		if err := answers(ctx, h); err != nil {
			return err
		}
	}
	if c.Managers > 0 {
		return k.join(ctx, c.Managers)
	}
	return nil
}

// startDaemon starts a host's daemon, with its figures where the machine's
// browser and Prometheus reach them: nobody else is on the lab's bridge.
func startDaemon(ctx context.Context, h *lab.Host) error {
	return h.Daemon(ctx, "--metrics-addr", h.Address().String()+":9323", "--metrics-allow-remote")
}

// answers waits until a host's daemon does.
func answers(ctx context.Context, h *lab.Host) error {
	ctx, stop := context.WithTimeoutCause(ctx, daemonPatience, errors.New("it does not answer"))
	defer stop()
	for {
		r, err := h.Exec(ctx, "ctl", "info")
		switch {
		case err == nil && r.Code == 0:
			return nil
		case err != nil:
			return fmt.Errorf("daemon of %s: %w:\n%s", h.Name(), err, h.LogTail(2<<10))
		case !h.DaemonRuns():
			return fmt.Errorf("the daemon of %s ended by itself:\n%s", h.Name(), h.LogTail(2<<10))
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// join makes one swarm of all hosts, the first of them its managers.
func (k *keeper) join(ctx context.Context, managers int) error {
	first := k.hosts[0]
	if _, err := must(ctx, first, "ctl swarm init"); err != nil {
		return err
	}
	tokens := map[string]string{}
	for _, role := range []string{"manager", "worker"} {
		out, err := must(ctx, first, "ctl swarm join-token -q "+role)
		if err != nil {
			return err
		}
		tokens[role] = strings.TrimSpace(out)
	}
	for n, h := range k.hosts[1:] {
		role := "worker"
		if n+1 < managers {
			role = "manager"
		}
		if _, err := must(ctx, h, "ctl swarm join --token "+tokens[role]+" "+first.Name()+":2377"); err != nil {
			return err
		}
	}
	return nil
}

func must(ctx context.Context, h *lab.Host, line string) (string, error) {
	r, err := h.Shell(ctx, line)
	if err == nil && r.Code != 0 {
		verb, _, _ := strings.Cut(line, " --token") // which is not for a log
		err = fmt.Errorf("%s on %s: %s", verb, h.Name(), strings.TrimSpace(r.Stderr))
	}
	return r.Stdout, err
}
