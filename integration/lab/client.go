package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// errNoLab says that no keeper answers.
var errNoLab = errors.New(`no lab is up: "lab up"`)

// ask gives the keeper a request and returns its answer.
func ask(ctx context.Context, p place, args ...string) (reply, error) {
	ctx, stop := context.WithTimeout(ctx, doPatience+clientPatience)
	defer stop()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.socket())
	if err != nil {
		return reply{}, errNoLab
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	if err := json.NewEncoder(conn).Encode(request{args}); err != nil {
		return reply{}, fmt.Errorf("ask the keeper: %w", err)
	}
	var r reply
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return reply{}, fmt.Errorf("the keeper gave no answer (%w): see %s", cmp.Or(context.Cause(ctx), err), p.log())
	}
	if r.Err != "" {
		return reply{}, errors.New(r.Err)
	}
	return r, nil
}

// up starts a keeper and returns when its hosts are up.
func up(ctx context.Context, p place, args []string, out io.Writer) error {
	c, err := parseUp(args)
	if err != nil {
		return err
	}
	if _, err := ask(ctx, p, "ls"); !errors.Is(err, errNoLab) {
		return errors.New(`a lab is up already: "lab ls", or end it with "lab down"`)
	}
	if err := errors.Join(os.MkdirAll(string(p), 0o700), removeStale(p.socket())); err != nil {
		return err
	}
	fmt.Fprintf(out, "raising hosts: %d\n", c.Hosts)
	if err := startKeeper(ctx, p, c); err != nil {
		return err
	}
	r, err := ask(ctx, p, "ls")
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, welcome(p, c, r.Text))
	return err
}

func removeStale(socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func parseUp(args []string) (config, error) {
	var c config
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.IntVar(&c.Hosts, "hosts", 5, "")
	flags.IntVar(&c.Managers, "swarm", 0, "")
	flags.StringVar(&c.Bin, "bin", "", "")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return c, fmt.Errorf("up: %w", errUsage)
	}
	if c.Hosts < 1 || c.Hosts > maxHosts || c.Managers < 0 || c.Managers > c.Hosts {
		return c, fmt.Errorf("up: want 1 to %d hosts, and no more managers than hosts", maxHosts)
	}
	return c, c.findBin()
}

// startKeeper starts this program again, in a session of its own so that it
// outlives the terminal, and returns when its lab is up.
func startKeeper(ctx context.Context, p place, c config) error {
	what, err := json.Marshal(c)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe", "-at", string(p), "keep", string(what))
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", log, log, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = write.Close() // the keeper has its own
	if err != nil {
		return err
	}
	// Interrupted, or too late: the keeper takes down what it has raised.
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	word, err := io.ReadAll(read)
	if err != nil || string(word) != "up" {
		_ = cmd.Wait() // its log says how it ended
		said, _ := os.ReadFile(p.log())
		return fmt.Errorf("the hosts did not come up: %w\n%s", cmp.Or(ctx.Err(), errors.New("the keeper ended")), tail(said))
	}
	return cmd.Process.Release()
}

func tail(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// enter puts the person's terminal on a host, or runs one command there.
func enter(ctx context.Context, p place, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("sh: want a host: %w", errUsage)
	}
	r, err := ask(ctx, p, "door", args[0])
	if err != nil {
		return err
	}
	environment := append(r.Environment, "TERM="+cmp.Or(os.Getenv("TERM"), "dumb"), "PS1="+args[0]+"$ ")
	argv := args[1:]
	if len(argv) == 0 {
		argv = []string{"bash", "--norc", "--noprofile", "-i"}
	}
	cmd := exec.Command(r.Door[0], append(r.Door[1:], argv...)...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environment, os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run() // an interrupt goes to what runs there, which has the terminal
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code := exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		if code == 128+int(syscall.SIGKILL) {
			fmt.Fprintf(os.Stderr, "\nlab: %s has gone dark\n", args[0])
		}
		return exitCode(code)
	}
	return err
}

// showLog shows what a host's daemons said.
func showLog(ctx context.Context, p place, args []string, out io.Writer) error {
	follow := len(args) == 2 && args[0] == "-f"
	if len(args) != 1 && !follow {
		return fmt.Errorf("log: want a host: %w", errUsage)
	}
	r, err := ask(ctx, p, "logfile", args[len(args)-1])
	if err != nil {
		return err
	}
	tail := exec.CommandContext(ctx, "tail", "-n", "+1", r.Text)
	if follow {
		tail = exec.CommandContext(ctx, "tail", "-n", "20", "-F", r.Text)
	}
	tail.Stdout = out
	if err := tail.Run(); ctx.Err() == nil {
		return err
	}
	return nil
}

// down ends the lab; where its keeper has died, it removes what that left.
func down(ctx context.Context, p place, out io.Writer) error {
	_, err := ask(ctx, p, "down")
	switch {
	case errors.Is(err, errNoLab):
		left := lab.Left("")
		if err := errors.Join(lab.Sweep(""), removeStale(p.socket())); err != nil {
			return err
		}
		if len(left) == 0 {
			return errNoLab
		}
		fmt.Fprintf(out, "what a dead keeper left is removed: %s\n", strings.Join(left, ", "))
		return nil
	case err != nil:
		return err
	}
	for ctx.Err() == nil {
		if _, err := os.Stat(p.socket()); errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(out, "the lab is down, nothing is left of it")
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ctx.Err()
}

// welcome is what a person is told first.
func welcome(p place, c config, list string) string {
	me := "bin/lab"
	if p != "/run/skep-lab" {
		me += " -at " + strconv.Quote(string(p))
	}
	first := "\n" + me + ` sh dev01        then, there: ctl swarm init; bin/lab sh dev02 for the next` + "\n"
	if c.Managers > 0 {
		first = "\n" + me + " sh dev01        then, there: ctl node ls\n"
	}
	return list + first + `
` + me + ` sh HOST         a shell on a host; alpine and busybox come from the lab's registry
` + me + ` kill HOST       pull its plug; start HOST gives it power again
` + me + ` pause HOST      let it stand still; resume HOST
` + me + ` partition A B   cut a wire; heal mends all
` + me + ` log -f HOST     what its daemon says; figures: http://ADDRESS:9323/metrics
` + me + ` down            end it all; ` + me + ` -h for the rest
`
}
