package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/skep-project/skep/internal/lab"
)

// A deed is what is done to hosts.
type deed struct {
	hosts int // how many names it takes
	more  int // how many words may follow
	do    func(k *keeper, ctx context.Context, hosts []*lab.Host, more []string) (string, error)
}

var deeds = map[string]deed{
	"kill":      {1, 0, (*keeper).kill},
	"start":     {1, 0, (*keeper).start},
	"pause":     {1, 0, (*keeper).pause},
	"resume":    {1, 0, (*keeper).resume},
	"partition": {2, 1, (*keeper).partition},
	"loss":      {2, 1, (*keeper).loss},
	"isolate":   {1, 0, (*keeper).isolate},
	"heal":      {0, 0, (*keeper).heal},
	"daemon":    {1, 1, (*keeper).daemon},
}

// do carries out a request.
func (k *keeper) do(ctx context.Context, verb string, args []string) (reply, error) {
	switch verb {
	case "ls":
		return reply{Text: k.list(ctx)}, nil
	case "down":
		k.bye()
		return reply{}, nil
	case "door":
		return k.door(args)
	case "logfile":
		return k.logfile(args)
	}
	d, ok := deeds[verb]
	if !ok {
		return reply{}, fmt.Errorf("unknown command %q: %w", verb, errUsage)
	}
	if len(args) < d.hosts || len(args) > d.hosts+d.more {
		return reply{}, fmt.Errorf("%s: want %d hosts: %w", verb, d.hosts, errUsage)
	}
	var hosts []*lab.Host
	for _, name := range args[:d.hosts] {
		h, err := k.host(name)
		if err != nil {
			return reply{}, err
		}
		hosts = append(hosts, h)
	}
	if d.hosts == 2 && hosts[0] == hosts[1] {
		return reply{}, fmt.Errorf("%s: want two hosts, not one twice", verb)
	}
	text, err := d.do(k, ctx, hosts, args[d.hosts:])
	return reply{Text: text}, err
}

func (k *keeper) door(args []string) (reply, error) {
	if len(args) != 1 {
		return reply{}, fmt.Errorf("sh: want a host: %w", errUsage)
	}
	h, err := k.host(args[0])
	if err != nil {
		return reply{}, err
	}
	if !h.Up() {
		return reply{}, fmt.Errorf("%s is dark: lab start %s", h.Name(), h.Name())
	}
	door, environment, err := h.Door()
	return reply{Door: door, Environment: environment}, err
}

func (k *keeper) logfile(args []string) (reply, error) {
	if len(args) != 1 {
		return reply{}, fmt.Errorf("log: want a host: %w", errUsage)
	}
	h, err := k.host(args[0])
	if err != nil {
		return reply{}, err
	}
	return reply{Text: h.DaemonLog()}, nil
}

func (k *keeper) kill(_ context.Context, hosts []*lab.Host, _ []string) (string, error) {
	h := hosts[0]
	if !h.Up() {
		return "", fmt.Errorf("%s is dark already", h.Name())
	}
	delete(k.paused, h.Name())
	return h.Name() + " is dark\n", h.Kill()
}

func (k *keeper) start(ctx context.Context, hosts []*lab.Host, _ []string) (string, error) {
	h := hosts[0]
	if h.Up() {
		return "", fmt.Errorf("%s is up already; its daemon alone: lab daemon %s start", h.Name(), h.Name())
	}
	if err := h.Boot(ctx); err != nil {
		return "", err
	}
	return h.Name() + " is up, its daemon runs\n", startDaemon(ctx, h)
}

func (k *keeper) pause(_ context.Context, hosts []*lab.Host, _ []string) (string, error) {
	h := hosts[0]
	if !h.Up() || k.paused[h.Name()] {
		return "", fmt.Errorf("%s is dark or paused already", h.Name())
	}
	if err := h.Pause(); err != nil {
		return "", err
	}
	k.paused[h.Name()] = true
	return h.Name() + " stands still\n", nil
}

func (k *keeper) resume(_ context.Context, hosts []*lab.Host, _ []string) (string, error) {
	h := hosts[0]
	if !k.paused[h.Name()] {
		return "", fmt.Errorf("%s is not paused", h.Name())
	}
	delete(k.paused, h.Name())
	return h.Name() + " goes on\n", h.Resume()
}

func (k *keeper) partition(ctx context.Context, hosts []*lab.Host, more []string) (string, error) {
	a, b := hosts[0], hosts[1]
	way, words := lab.Both, fmt.Sprintf("%s and %s do not hear each other", a.Name(), b.Name())
	switch strings.Join(more, " ") {
	case "":
	case "to":
		way, words = lab.ToB, fmt.Sprintf("%s does not hear %s", b.Name(), a.Name())
	case "from":
		way, words = lab.ToA, fmt.Sprintf("%s does not hear %s", a.Name(), b.Name())
	default:
		return "", fmt.Errorf("partition: want to or from, not %q", more[0])
	}
	if err := k.awake(hosts...); err != nil {
		return "", err
	}
	if err := k.lab.Partition(ctx, a, b, way); err != nil {
		return "", err
	}
	k.cuts[words] = true
	return words + "\n", nil
}

func (k *keeper) loss(ctx context.Context, hosts []*lab.Host, more []string) (string, error) {
	percent, err := strconv.Atoi(strings.TrimSuffix(strings.Join(more, ""), "%"))
	if err != nil || percent < 1 || percent > 100 {
		return "", fmt.Errorf("loss: want 1 to 100 percent")
	}
	if err := k.awake(hosts...); err != nil {
		return "", err
	}
	words := fmt.Sprintf("%d %% of packets between %s and %s are lost", percent, hosts[0].Name(), hosts[1].Name())
	if err := k.lab.Loss(ctx, hosts[0], hosts[1], lab.Both, percent); err != nil {
		return "", err
	}
	k.cuts[words] = true
	return words + "\n", nil
}

func (k *keeper) isolate(ctx context.Context, hosts []*lab.Host, _ []string) (string, error) {
	if err := k.awake(k.hosts...); err != nil {
		return "", err
	}
	if err := k.lab.Isolate(ctx, hosts[0]); err != nil {
		return "", err
	}
	words := hosts[0].Name() + " hears no other host and is heard by none"
	k.cuts[words] = true
	return words + "\n", nil
}

func (k *keeper) heal(ctx context.Context, _ []*lab.Host, _ []string) (string, error) {
	if err := k.awake(k.hosts...); err != nil {
		return "", err
	}
	clear(k.cuts)
	return "every host hears every other\n", k.lab.Heal(ctx)
}

// awake refuses what a paused host cannot do: cut and mend its own wires.
func (k *keeper) awake(hosts ...*lab.Host) error {
	for _, h := range hosts {
		if k.paused[h.Name()] {
			return fmt.Errorf("%s stands still: lab resume %s first", h.Name(), h.Name())
		}
	}
	return nil
}

func (k *keeper) daemon(ctx context.Context, hosts []*lab.Host, more []string) (string, error) {
	h := hosts[0]
	if err := k.awake(h); err != nil {
		return "", err
	}
	switch strings.Join(more, " ") {
	case "kill":
		return "the daemon of " + h.Name() + " is killed; its containers run on\n", h.KillDaemon(ctx)
	case "stop":
		return "the daemon of " + h.Name() + " has stopped; its containers run on\n", h.StopDaemon(ctx)
	case "start":
		return "the daemon of " + h.Name() + " runs\n", startDaemon(ctx, h)
	}
	return "", fmt.Errorf("daemon: want kill, stop or start")
}

// list is the hosts and what was done to them.
func (k *keeper) list(ctx context.Context) string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "HOST\tADDRESS\tPOWER\tDAEMON\tSWARM")
	for _, h := range k.hosts {
		power, daemon, swarm := "on", "runs", ""
		switch {
		case !h.Up():
			power, daemon = "off", ""
		case k.paused[h.Name()]:
			power = "paused"
		case !h.DaemonRuns():
			daemon = "stopped"
		default:
			swarm = stateOf(ctx, h)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", h.Name(), h.Address(), power, daemon, swarm)
	}
	_ = table.Flush() // to memory
	for _, words := range slices.Sorted(maps.Keys(k.cuts)) {
		b.WriteString(words + "\n")
	}
	return b.String()
}

// stateOf is the node's state as its own daemon says.
func stateOf(ctx context.Context, h *lab.Host) string {
	r, err := h.Exec(ctx, "ctl", "info")
	if err != nil || r.Code != 0 {
		return "does not answer"
	}
	state, role := "", ""
	for line := range strings.Lines(r.Stdout) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Swarm":
			state = value
		case "Is Manager":
			role = map[string]string{"true": ", manager", "false": ", worker"}[value]
		}
	}
	if state != "active" {
		role = ""
	}
	return state + role
}
