// Command ctl is every part of Skep: "ctl daemon" is the process on each host,
// every other command is a client of a daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/skep-project/skep/cli"
	"github.com/skep-project/skep/cli/say"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends ctl at once
	return cli.Main(ctx, os.Args, say.Streams{
		In:     os.Stdin,
		Out:    os.Stdout,
		Err:    os.Stderr,
		Getenv: os.Getenv,
		Terminal: func() (int, bool) {
			width, _, err := term.GetSize(int(os.Stderr.Fd()))
			return width, err == nil && width > 0
		},
	})
}
