// Command ctl is every part of Skep: "ctl daemon" is the process on each host,
// every other command is a client of a daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/skep-project/skep/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends ctl at once
	return cli.Main(ctx, os.Args, cli.ProcessStreams())
}
