package conn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
)

// DefaultRunDir is where a daemon's socket lies if nothing else is said.
const DefaultRunDir = "/run/skep"

// socket is the socket's name in the run directory.
const socket = "ctl.sock"

// A Host is where a daemon listens.
type Host struct {
	// Path of its unix socket.
	Path string
}

// ParseHosts reads a list of addresses, separated by commas: unix://PATH or an
// absolute path.
func ParseHosts(list string) ([]Host, error) {
	var out []Host
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		scheme, rest, ok := strings.Cut(text, "://")
		switch {
		case text == "":
			continue
		case !ok && filepath.IsAbs(text):
			out = append(out, Host{Path: text})
		case ok && scheme == "unix" && filepath.IsAbs(rest):
			out = append(out, Host{Path: rest})
		case ok && scheme == "unix":
			return nil, say.Misuse("host %q: want an absolute path, such as unix:///run/skep/ctl.sock", text)
		case ok && (scheme == "tcp" || scheme == "ssh"):
			return nil, say.Hinted(say.Misuse("host %q: %s is not served yet: a client has no identity of its own to show", text, scheme),
				"run ctl on the host itself, through ssh for example")
		default:
			return nil, say.Misuse("host %q: want unix://PATH", text)
		}
	}
	if len(out) == 0 {
		return nil, say.Misuse("host %q: names no address", list)
	}
	return out, nil
}

// RootFlags are ctl's own.
func RootFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "host", Aliases: []string{"H"}, Usage: "`ADDRESS` of the daemon, or several with commas: unix://PATH (or CTL_HOST)"},
		&cli.StringFlag{Name: "run-dir", Usage: "`DIR` of the daemon's socket (default: /run/skep)"},
	}
}

// hosts returns where to look: the flags before the environment before the
// default.
func hosts(c *cli.Context, s *say.Streams) ([]Host, error) {
	root := c.Lineage()[len(c.Lineage())-2] // the last one is a nil parent's
	switch {
	case root.String("host") != "":
		return ParseHosts(root.String("host"))
	case root.String("run-dir") != "":
		dir, err := filepath.Abs(root.String("run-dir"))
		return []Host{{Path: filepath.Join(dir, socket)}}, err
	case s.Getenv("CTL_HOST") != "":
		return ParseHosts(s.Getenv("CTL_HOST"))
	}
	return []Host{{Path: filepath.Join(DefaultRunDir, socket)}}, nil
}

// TimeoutFlag bounds a command. A command that waits for more than an answer has
// a longer default.
func TimeoutFlag(d time.Duration) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: d, Usage: "`TIME` after which ctl gives up waiting"}
}

// StaleFlag lets an answer be old.
func StaleFlag() cli.Flag {
	return &cli.BoolFlag{Name: "stale", Usage: "take the last state this manager knows, without asking the swarm"}
}

// Default times of commands.
const (
	// ForAnswer is for what is answered at once.
	ForAnswer = 30 * time.Second
	// ForMembership is for a node that joins or changes its role.
	ForMembership = 2 * time.Minute
	// ForTasks is for tasks that pull images and start.
	ForTasks = 10 * time.Minute
)

// An Action is what a command does with a connection.
type Action func(ctx context.Context, c *cli.Context, api *Conn) error

// With returns the action that opens a connection, bounds it by --timeout, asks
// stale if --stale is given, and says what was waited for when time was over.
func With(s *say.Streams, act Action) cli.ActionFunc {
	return func(c *cli.Context) error {
		limit := c.Duration("timeout")
		if limit <= 0 {
			return say.Misuse("--timeout %v: want more than nothing", limit)
		}
		list, err := hosts(c, s)
		if err != nil {
			return err
		}
		ctx, stop := context.WithTimeout(c.Context, limit)
		defer stop()
		api := New(s, list)
		defer api.Close()
		if c.Bool("stale") {
			ctx = rpc.Stale(ctx)
		}
		return api.ended(ctx, limit, act(ctx, c, api))
	}
}

// ended says what was waited for, if err comes of the time being over or of an
// interrupt.
func (c *Conn) ended(ctx context.Context, limit time.Duration, err error) error {
	late := over(ctx)
	switch {
	case err == nil:
		return nil
	case late && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return say.Hinted(fmt.Errorf("gave up after %v waiting for %s", limit, c.waiting),
			cmp.Or(c.hint, "--timeout gives it longer"))
	case errors.Is(err, context.Canceled) && ctx.Err() != nil && !late:
		return say.Hinted(fmt.Errorf("interrupted while waiting for %s", c.waiting), c.hint)
	case late && again(err):
		return c.gone(ctx, fmt.Errorf("gave up after %v waiting for %s: %w", limit, c.waiting, err))
	}
	return c.gone(ctx, err)
}

// lead is by how much a daemon may end a call before ctl would: it is told the
// time left when the call begins, rounded, and has a timer of its own.
const lead = 100 * time.Millisecond

// over reports whether the command's time is over, or is to the daemon.
func over(ctx context.Context) bool {
	if ctx.Err() != nil {
		return errors.Is(ctx.Err(), context.DeadlineExceeded)
	}
	end, limited := ctx.Deadline()
	return limited && time.Until(end) <= lead
}

// gone says so if the daemon went away during a call.
func (c *Conn) gone(ctx context.Context, err error) error {
	if err == nil || !errdefs.IsUnavailable(err) || rpc.RefusalOf(err) != nil || c.cc == nil {
		return err
	}
	if kerr := c.hosts[c.at].knock(context.WithoutCancel(ctx)); kerr != nil {
		return say.Missing(hintFor([]error{kerr}), "%v", kerr)
	}
	return err
}

// unreachable is a socket at which nobody answers, in words.
func unreachable(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &deaf{path: path, why: "there is no socket", err: err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &deaf{path: path, why: "nobody listens there", err: err}
	case errors.Is(err, fs.ErrPermission):
		return &deaf{path: path, why: "permission denied", err: err}
	}
	return &deaf{path: path, why: err.Error(), err: err}
}

type deaf struct {
	path, why string
	err       error
}

func (d *deaf) Error() string { return "no daemon answers at " + d.path + ": " + d.why }
func (d *deaf) Unwrap() error { return d.err }

// hintFor says how to get an answer.
func hintFor(errs []error) string {
	for _, err := range errs {
		if errors.Is(err, fs.ErrPermission) {
			return "the socket is its owner's: run ctl as root"
		}
	}
	return `start it with "ctl daemon" (or "systemctl start skep"), or name another with --host or CTL_HOST`
}
