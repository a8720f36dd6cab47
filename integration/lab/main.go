// Command lab keeps hosts up on this machine for a person to play with: raise
// them, enter one, pull its plug, cut the wire between two.
//
// "lab up" leaves a keeper behind, a process of its own that owns the lab
// (internal/lab) until "lab down". Every other command is a client of the keeper
// over a unix socket. A keeper that dies takes its hosts with it; what else it
// leaves, "lab down" or the next lab removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/skep-project/skep/internal/lab"
)

const usage = `usage: lab [-at DIR] COMMAND

  up [-hosts N] [-swarm N] [-bin DIR]
                            raise dev01 to devN (5); the first N of them managers of
                            one swarm and the rest its workers (0: no swarm); ctl,
                            containerd and runc are taken from DIR (beside lab)
  ls                        the hosts and how they are
  sh HOST [COMMAND...]      a shell on a host, or one command
  kill HOST                 pull the plug: everything on it dies, nobody is told
  start HOST                give it power and start its daemon
  pause HOST, resume HOST   stop every process where it stands; let them go on
  partition A B [to|from]   cut two hosts off from each other, or only what A sends
                            to B, or only what comes from B
  loss A B PERCENT          lose packets between two hosts, both ways
  isolate HOST              cut a host off from all others
  heal                      end every partition and loss
  daemon HOST kill|stop|start
  log HOST                  what its daemons said; -f follows
  down                      end the lab and leave nothing of it
`

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch exit := (exitCode)(0); {
	case errors.As(err, &exit):
		os.Exit(int(exit))
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// An exitCode ends the program as a command on a host ended.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// errUsage says that the words made no sense.
var errUsage = errors.New("see lab -h")

// place is where the keeper of a lab is found.
type place string

func (p place) socket() string { return filepath.Join(string(p), "keeper.sock") }
func (p place) log() string    { return filepath.Join(string(p), "keeper.log") }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage) }
	at := flags.String("at", "/run/skep-lab", "directory of the keeper's socket and log")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return errUsage
	}
	if flags.NArg() == 0 {
		fmt.Fprint(out, usage)
		return exitCode(2)
	}
	p, command, rest := place(*at), flags.Arg(0), flags.Args()[1:]
	switch command {
	case "up":
		return up(ctx, p, rest, out)
	case "keep":
		return keepFor(ctx, p, rest)
	case "sh":
		return enter(ctx, p, rest)
	case "log":
		return showLog(ctx, p, rest, out)
	case "down":
		return down(ctx, p, out)
	case "help":
		fmt.Fprint(out, usage)
		return nil
	}
	r, err := ask(ctx, p, flags.Args()...)
	if err == nil {
		_, err = io.WriteString(out, r.Text)
	}
	return err
}
