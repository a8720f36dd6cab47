// Command recovery measures, on lab hosts, how long a swarm takes to recover
// from the loss of a process or of a host, and prints the figures beside what is
// promised. It passes no judgement by its exit code: a busy machine is slow.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/integration/fleet"
	"github.com/skep-project/skep/integration/loss"
	"github.com/skep-project/skep/internal/lab"
)

func main() {
	lab.Init()
	ctl := flag.String("bin", "bin/ctl", "the ctl to measure; containerd and runc lie beside it")
	trials := flag.Int("trials", 20, "how often each loss is tried")
	only := flag.String("only", "", "measure only what has this in its name")
	explain := flag.Bool("explain", false, "print what the daemons said of a trial that took longer than the worst that is promised")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *ctl, *trials, *only, *explain)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "recovery:", err)
		os.Exit(1)
	}
}

// run raises one fleet and tries every loss on it.
func run(ctx context.Context, ctl string, trials int, only string, explain bool) error {
	config := fleet.Config{Ctl: ctl, Managers: 3, Workers: 2}
	if explain {
		config.Daemon = []string{"--log-level", "debug"}
	}
	f, err := fleet.Raise(ctx, config)
	if err != nil {
		return err
	}
	var figures []figure
	err = loss.Prepare(ctx, f)
	for _, l := range loss.All() {
		if err != nil || !strings.Contains(l.Name, only) {
			continue
		}
		var got figure
		got, err = measure(ctx, f, l, trials, explain)
		figures = append(figures, got)
	}
	print(figures)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, f.Logs(4<<10))
	}
	return errors.Join(err, f.Close())
}

// measure tries one loss so many times.
func measure(ctx context.Context, f *fleet.Fleet, l loss.Loss, trials int, explain bool) (figure, error) {
	got := figure{Loss: l}
	fmt.Printf("== %s\n", l.Name)
	for i := range trials {
		took, err := l.Try(ctx, f)
		if err != nil {
			return got, fmt.Errorf("trial %d: %w", i+1, err)
		}
		fmt.Printf("   %2d  %8v   load %s\n", i+1, took.Round(time.Millisecond), load())
		if explain && took > l.Worst {
			fmt.Println(f.Logs(8 << 10))
		}
		got.took = append(got.took, took)
	}
	return got, nil
}

// load is the machine's load of the last minute, without which no figure says
// anything.
func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(data), " ")
	return one
}
