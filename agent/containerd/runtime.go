// Package containerd runs the agent's containers in containerd.
//
// It owns how a task becomes a container: image, snapshot, OCI spec, limits,
// the process and its end. It leaves to others which tasks there are (the
// agent's worker), when to try again (the agent's task runner) and the life of
// a containerd of our own (private).
//
// All that must outlive this process is kept by containerd, as labels of the
// container: that it was started, that it must not be started any more, and
// how it ended. So any later process carries on where this one stopped.
//
// Invariant: a container's process is started at most once, and its end, once
// seen, is written to its labels before its traces are removed.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/meter"
)

// runcRuntime is the name containerd knows runc's shim by.
const runcRuntime = "io.containerd.runc.v2"

// Config configures a Runtime. The zero value of every field without
// "Required" works.
type Config struct {
	// Address is the path of containerd's socket. Required.
	Address string
	// Namespace is containerd's namespace of our containers. Empty means "skep".
	Namespace string
	// Cluster and Node name the containers that are ours. Required.
	Cluster, Node id.ID
	// StateDir is an absolute path. It receives a directory "tasks" with, for
	// each task, its log and the files mounted into it. Required.
	StateDir string
	// HostsDir is where containerd's hosts.toml files are looked up. Empty
	// means /etc/containerd/certs.d.
	HostsDir string
	// CgroupParent is the cgroup that gets one child per container, an
	// absolute path below the root of each hierarchy. Empty means "/skep".
	CgroupParent string
	// Snapshotter is the snapshotter to use. Empty means overlayfs where it
	// works and native where it does not.
	Snapshotter string
	// LogBytes is the size above which a task's log is cut: the newest part
	// moves to "log.1" and the log begins anew. Zero means 10 MiB.
	LogBytes int64
	// Log receives the runtime's records. Required.
	Log *slog.Logger
}

func (c Config) filled() (Config, error) {
	c.Namespace = or(c.Namespace, "skep")
	c.HostsDir = or(c.HostsDir, "/etc/containerd/certs.d")
	c.CgroupParent = or(c.CgroupParent, "/skep")
	c.Address = strings.TrimPrefix(c.Address, "unix://")
	if c.LogBytes == 0 {
		c.LogBytes = 10 << 20
	}
	return c, errors.Join(
		check(filepath.IsAbs(c.Address), "address %q: want the absolute path of containerd's socket", c.Address),
		check(filepath.IsAbs(c.StateDir), "state directory %q: want an absolute path", c.StateDir),
		check(filepath.IsAbs(c.CgroupParent), "cgroup parent %q: want an absolute path", c.CgroupParent),
		check(!c.Cluster.IsZero(), "cluster: missing"),
		check(!c.Node.IsZero(), "node: missing"),
		check(c.LogBytes >= 4096, "log size %d: below 4096 bytes", c.LogBytes),
		check(c.Log != nil, "log: missing"))
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// A Runtime is the [exec.Runtime] of one containerd. It connects when it is
// first used, and again whenever containerd comes back.
type Runtime struct {
	cfg     Config
	client  *client.Client
	conn    *grpc.ClientConn // the client's
	lanes   lanes
	pulls   flights
	started bell
	silence *log.Entry

	pullTook   meter.Durations
	pullFailed meter.Counter
}

var _ exec.Runtime = (*Runtime)(nil)

// New returns a Runtime for the containerd at cfg.Address, which need not
// answer yet. The caller closes it.
func New(cfg Config) (*Runtime, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(cfg.StateDir, "tasks"), 0o700); err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	conn, err := dial(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	c, err := client.NewWithConn(conn, client.WithDefaultRuntime(runcRuntime))
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", errors.Join(err, conn.Close()))
	}
	return &Runtime{cfg: cfg, client: c, conn: conn, silence: silence()}, nil
}

// Close ends the connection and waits for downloads that are under way to end.
// Containers are not touched.
func (r *Runtime) Close() error {
	r.pulls.close()
	return r.client.Close()
}

// Run keeps the tasks' logs within their bound until ctx ends.
func (r *Runtime) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := r.boundLogs(); err != nil {
				r.cfg.Log.WarnContext(ctx, "task logs not bounded", slog.Any("err", err))
			}
		}
	}
}

// ours returns ctx with the namespace of our containers, and with a logger for
// containerd's client that is silent: what matters comes back as an error.
func (r *Runtime) ours(ctx context.Context) context.Context {
	return log.WithLogger(namespaces.WithNamespace(ctx, r.cfg.Namespace), r.silence)
}

func silence() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// words turns an error of containerd into one of the agent: unavailability is
// marked and says who does not answer.
func (r *Runtime) words(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case exec.Unavailable(err):
		return fmt.Errorf("%s: containerd at %s: %w: %w", what, r.cfg.Address, exec.ErrUnavailable, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", what, exec.ErrGone, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}
