package conn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
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

// defaultPort is where managers listen.
const defaultPort = "2377"

// A Host is where a daemon listens: at one of the two.
type Host struct {
	// Path of its unix socket.
	Path string
	// Address, host:port, of a manager on the network.
	Address string

	// Peer is whom one means to reach at Address; zero is any manager.
	Peer rpc.Peer
}

// String is what --host would name it.
func (h Host) String() string {
	if h.Address != "" {
		return "tcp://" + h.Address
	}
	return "unix://" + h.Path
}

// ParseHosts reads a list of addresses, separated by commas: unix://PATH or an
// absolute path, or tcp://HOST[:PORT].
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
		case ok && scheme == "tcp":
			address, err := parseAddress(rest)
			if err != nil {
				return nil, say.Misuse("host %q: %v", text, err)
			}
			out = append(out, Host{Address: address})
		case ok && scheme == "ssh":
			return nil, say.Hinted(say.Misuse("host %q: ssh is not served", text), "run ctl on the host itself through ssh, or reach a manager at tcp://HOST")
		default:
			return nil, say.Misuse("host %q: want unix://PATH or tcp://HOST[:PORT]", text)
		}
	}
	if len(out) == 0 {
		return nil, say.Misuse("host %q: names no address", list)
	}
	return out, nil
}

// parseAddress reads HOST[:PORT] of a manager.
func parseAddress(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), defaultPort
		if strings.Contains(host, ":") && !strings.HasPrefix(text, "[") && net.ParseIP(host) == nil {
			return "", errors.New("want tcp://HOST[:PORT]")
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || strings.ContainsAny(host, "/@?#[] ") || err != nil || n == 0 {
		return "", errors.New("want tcp://HOST[:PORT]")
	}
	return net.JoinHostPort(host, port), nil
}

// RootFlags are ctl's own.
func RootFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "host", Aliases: []string{"H"}, Usage: "`ADDRESS` of the daemon, or several with commas: unix://PATH or tcp://HOST[:PORT] (or CTL_HOST)"},
		&cli.StringFlag{Name: "context", Usage: "`NAME` of the context to use: who one is, in which swarm (or CTL_CONTEXT)"},
		&cli.StringFlag{Name: "run-dir", Usage: "`DIR` of the daemon's socket (default: /run/skep)"},
	}
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
		api, err := find(c, s)
		if err != nil {
			return err
		}
		ctx, stop := context.WithTimeout(c.Context, limit)
		defer stop()
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
	r, kerr := c.reach(context.WithoutCancel(ctx), c.at)
	if kerr != nil {
		return c.nobody([]error{kerr})
	}
	r.close()
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
	return `start it with "ctl daemon" (or "systemctl start skep"), or name another with --host or CTL_HOST; a context reaches managers elsewhere: "ctl context ls"`
}
