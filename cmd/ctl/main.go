//go:debug fips140=off

// Command ctl is every part of Skep: "ctl daemon" is the process on each host,
// every other command is a client of a daemon.
//
// A release is built with a frozen Go Cryptographic Module (GOFIPS140), which would
// have it run in FIPS 140-3 mode always: "ctl daemon --fips" does that.
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
