// Package private keeps a containerd of the daemon's own alive.
//
// It owns that containerd's configuration, process, socket and lock, and sees to
// it that what ended while no containerd ran is not forgotten by the next. It
// leaves to others what runs in it (package containerd).
//
// Invariants: one daemon supervises a state directory at a time; a containerd
// that answers is never started twice; and nothing but Stop ends one, so
// containers outlive the daemon and the daemon's containerd may outlive both.
package private

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/internal/durable"
)

// maxSocketPath is what the kernel leaves for a socket's name, less room for
// ".ttrpc".
const maxSocketPath = 107 - len(".ttrpc")

// Config configures a Supervisor.
type Config struct {
	// StateDir keeps images and containers, an absolute path. Required.
	StateDir string
	// RunDir keeps sockets and what is lost in a reboot, an absolute path.
	// Required.
	RunDir string
	// BinDir is searched for containerd, containerd-shim-runc-v2 and runc
	// before PATH is. Empty means the directory of this program.
	BinDir string
	// HostsDir is where containerd looks up hosts.toml files. Empty means
	// /etc/containerd/certs.d.
	HostsDir string
	// CgroupPath moves containerd into a cgroup of that path. Empty means it
	// stays in the daemon's.
	CgroupPath string
	// Log receives the supervisor's records. Required.
	Log *slog.Logger
}

func (c Config) filled() (Config, error) {
	if c.HostsDir == "" {
		c.HostsDir = "/etc/containerd/certs.d"
	}
	if c.BinDir == "" {
		self, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.BinDir = filepath.Dir(self)
	}
	return c, errors.Join(
		check(filepath.IsAbs(c.StateDir), "state directory %q: want an absolute path", c.StateDir),
		check(filepath.IsAbs(c.RunDir), "run directory %q: want an absolute path", c.RunDir),
		check(filepath.IsAbs(c.BinDir), "binary directory %q: want an absolute path", c.BinDir),
		check(len(socketIn(c.RunDir)) <= maxSocketPath, "run directory %q: too long for a socket's name; want at most %d bytes",
			c.RunDir, maxSocketPath-len(socketIn(""))),
		check(c.Log != nil, "log: missing"))
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func socketIn(runDir string) string { return filepath.Join(runDir, "containerd.sock") }

// A Supervisor starts, adopts and restarts one containerd.
type Supervisor struct {
	cfg   Config
	tools tools
	ready chan struct{} // closed when containerd has answered once
}

// New checks the configuration and finds the binaries. It starts nothing.
func New(cfg Config) (*Supervisor, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, fmt.Errorf("private containerd: %w", err)
	}
	t, err := find(cfg.BinDir)
	if err != nil {
		return nil, fmt.Errorf("private containerd: %w", err)
	}
	return &Supervisor{cfg: cfg, tools: t, ready: make(chan struct{})}, nil
}

// Address returns the path of the socket containerd answers at.
func (s *Supervisor) Address() string { return socketIn(s.cfg.RunDir) }

// Ready returns a channel that is closed when containerd has answered for the
// first time since Run began.
func (s *Supervisor) Ready() <-chan struct{} { return s.ready }

// Run keeps containerd running until ctx ends, and leaves it running then. It
// returns an error only if it cannot begin: another daemon supervises the same
// directory, or the directory cannot be used. What fails later is tried again.
func (s *Supervisor) Run(ctx context.Context) error {
	unlock, err := s.enter()
	if err != nil {
		return fmt.Errorf("private containerd: %w", err)
	}
	defer unlock()
	for wait := firstWait; ; {
		begin := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begin) > longLife {
			wait = firstWait
		}
		s.cfg.Log.ErrorContext(ctx, "containerd ended and is started again",
			slog.Any("err", err), slog.Duration("in", wait), slog.String("output", s.outputFile()))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// How long to wait before containerd is started again, growing while it does
// not live for longLife.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 15 * time.Second
	longLife  = 30 * time.Second
)

// enter makes the directories and takes the lock.
func (s *Supervisor) enter() (unlock func(), err error) {
	for _, dir := range []string{s.cfg.StateDir, s.cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	dir, err := os.OpenRoot(s.cfg.RunDir)
	if err != nil {
		return nil, err
	}
	lock, err := durable.Lock(dir, "containerd.lock")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("another daemon supervises it: %w", err), dir.Close())
	}
	return func() { _ = errors.Join(lock.Close(), dir.Close()) }, nil
}

// once sees one containerd through: adopts the one that answers or starts one,
// and returns when it has ended or ctx has.
func (s *Supervisor) once(ctx context.Context) error {
	p, err := s.adopt(ctx)
	if err != nil {
		return err
	}
	var remains []containerd.Remain
	if p == nil {
		remains = containerd.Remains(ctx, filepath.Join(s.cfg.RunDir, "state", "io.containerd.runtime.v2.task"))
		if p, err = s.start(ctx); err != nil {
			return err
		}
	}
	defer p.release()
	if err := s.answers(ctx, p); err != nil {
		return err
	}
	if err := containerd.Keep(ctx, s.Address(), remains); err != nil {
		s.cfg.Log.WarnContext(ctx, "the exits of some containers are lost", slog.Any("err", err))
	}
	if err := s.note(p.pid); err != nil {
		return err
	}
	s.announce(ctx, p)
	return s.mind(ctx, p)
}

// announce says that containerd serves.
func (s *Supervisor) announce(ctx context.Context, p *process) {
	s.cfg.Log.InfoContext(ctx, "containerd serves",
		slog.String("addr", s.Address()), slog.Int("pid", p.pid), slog.Bool("adopted", p.child == nil))
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}
