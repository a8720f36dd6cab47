// Command demo replays the walkthrough on lab hosts for a person to watch:
// every command as typed, its output, and how long each recovery took.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/integration/walkthrough"
	"github.com/skep-project/skep/internal/lab"
)

func main() {
	lab.Init()
	ctl := flag.String("bin", "bin/ctl", "the ctl to show; containerd and runc lie beside it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, *ctl)
	stop()
	os.Exit(code)
}

// run plays both stories, each on hosts of its own.
func run(ctx context.Context, ctl string) int {
	began := time.Now()
	show := &printer{}
	err := errors.Join(
		play(ctx, ctl, show, walkthrough.Steps()),
		play(ctx, ctl, show, walkthrough.StepsOfThree()),
	)
	show.verdict(time.Since(began), err)
	if err != nil {
		return 1
	}
	return 0
}

func play(ctx context.Context, ctl string, show *printer, steps []walkthrough.Step) error {
	stage, err := walkthrough.Open(ctx, filepath.Dir(ctl), show, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	err = stage.Play(ctx, steps)
	if err != nil {
		fmt.Fprintf(os.Stderr, "\n%s\n", stage.Logs(8<<10))
	}
	return errors.Join(err, stage.Close())
}

// A printer tells the story on a terminal and keeps its times.
type printer struct{ times []string }

func (p *printer) Step(s walkthrough.Step) { fmt.Printf("\n=== %s\n", s.Name) }

func (p *printer) Event(text string) { fmt.Printf("\n    * %s\n", text) }

func (p *printer) Command(host, line string, r lab.Result) {
	fmt.Printf("\n%s$ %s\n%s%s", host, line, r.Stdout, r.Stderr)
}

func (p *printer) Timed(what string, took, limit time.Duration) {
	line := fmt.Sprintf("%-48s %8s   (promised within %v)", what, took.Round(time.Millisecond), limit)
	fmt.Printf("\n    * %s\n", line)
	p.times = append(p.times, line)
}

func (p *printer) verdict(took time.Duration, err error) {
	fmt.Printf("\n=== Times\n%s\n\n", strings.Join(p.times, "\n"))
	if err != nil {
		fmt.Printf("FAILED after %v: %v\n", took.Round(time.Second), err)
		return
	}
	fmt.Printf("Everything was as it must be, in %v.\n", took.Round(time.Second))
}
