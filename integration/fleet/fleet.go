package fleet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/lab"
	"github.com/skep-project/skep/internal/rpc"
)

// patience bounds the waits for a daemon and for the swarm to be whole; each
// takes a few seconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

// Config says what to raise.
type Config struct {
	// Ctl is the binary under test; the container runtime lies beside it.
	Ctl string
	// Managers and Workers are how many there are; at least one manager.
	Managers, Workers int
	// DiskBytes is the size of each host's own disk. Zero: it shares the
	// machine's.
	DiskBytes int64
	// Init is more for "ctl swarm init", such as "--dispatcher-heartbeat 1s".
	Init string
	// Daemon is more flags for every daemon.
	Daemon []string
}

// A Fleet is a swarm that runs.
type Fleet struct {
	Lab *lab.Lab
	// Members are the managers, m1 first, and then the workers, w1 first.
	Members []*Member
}

// A Member is one host of the fleet. What is done to it is done by one goroutine
// at a time; Dial may be called by any.
type Member struct {
	*lab.Host
	Manager bool

	flags  []string               // of its daemon
	socket atomic.Pointer[string] // nil while it is dark
}

// Raise makes the hosts and joins them to one swarm, which is whole when it
// returns. The caller closes the fleet.
func Raise(ctx context.Context, c Config) (*Fleet, error) {
	l, err := lab.New(ctx, lab.Config{Bin: filepath.Dir(c.Ctl)})
	if err != nil {
		return nil, err
	}
	f := &Fleet{Lab: l}
	if err := f.raise(ctx, c); err != nil {
		return nil, errors.Join(fmt.Errorf("raise the fleet: %w\n%s", err, f.Logs(2<<10)), f.Close())
	}
	return f, nil
}

func (f *Fleet) raise(ctx context.Context, c Config) error {
	for i := range c.Managers + c.Workers {
		name := fmt.Sprintf("m%d", i+1)
		if i >= c.Managers {
			name = fmt.Sprintf("w%d", i+1-c.Managers)
		}
		h, err := f.Lab.Host(name)
		if err != nil {
			return err
		}
		m := &Member{Host: h, Manager: i < c.Managers, flags: c.Daemon}
		f.Members = append(f.Members, m)
		if c.DiskBytes > 0 {
			if err := h.Disk(c.DiskBytes); err != nil {
				return err
			}
		}
		if err := m.Start(ctx); err != nil {
			return err
		}
	}
	return f.join(ctx, c.Init)
}

// join makes one swarm of the hosts.
func (f *Fleet) join(ctx context.Context, init string) error {
	first := f.Members[0]
	if _, err := first.Must(ctx, "ctl swarm init "+init); err != nil {
		return err
	}
	for _, m := range f.Members[1:] {
		role := "worker"
		if m.Manager {
			role = "manager"
		}
		token, err := first.Must(ctx, "ctl swarm join-token -q "+role)
		if err != nil {
			return err
		}
		if _, err := m.Must(ctx, "ctl swarm join --token "+strings.TrimSpace(token)+" "+first.Name()+":2377"); err != nil {
			return err
		}
	}
	return f.Whole(ctx, patience)
}

// Close kills every host and leaves nothing behind.
func (f *Fleet) Close() error { return f.Lab.Close() }

// Logs returns the end of what every daemon said.
func (f *Fleet) Logs(bytes int64) string {
	var b strings.Builder
	for _, m := range f.Members {
		fmt.Fprintf(&b, "--- daemon of %s\n%s\n", m.Name(), m.LogTail(bytes))
	}
	return b.String()
}

// Managers are the members that are managers, in order.
func (f *Fleet) Managers() []*Member {
	return slices.DeleteFunc(slices.Clone(f.Members), func(m *Member) bool { return !m.Manager })
}

// Others are the members but one, those that have power, in order.
func (f *Fleet) Others(than *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(f.Members), func(m *Member) bool { return m == than || !m.Up() })
}

// Start gives a dark host power and starts its daemon, or starts the daemon of a
// host that lost only that. It returns when the daemon answers.
func (m *Member) Start(ctx context.Context) error {
	if !m.Up() {
		if err := m.Power(ctx); err != nil {
			return err
		}
	}
	if err := m.Daemon(ctx, m.flags...); err != nil {
		return err
	}
	return Until(ctx, patience, func(ctx context.Context) error {
		if !m.DaemonRuns() {
			return fmt.Errorf("the daemon of %s ended by itself", m.Name())
		}
		r, err := m.Exec(ctx, "ctl", "info")
		if err == nil && r.Code != 0 {
			err = errors.New(strings.TrimSpace(r.Stderr))
		}
		return err
	})
}

// Power boots a dark host and starts nothing on it.
func (m *Member) Power(ctx context.Context) error {
	if err := m.Boot(ctx); err != nil {
		return err
	}
	path := m.Inside("/run/skep/ctl.sock")
	m.socket.Store(&path)
	return nil
}

// Dark pulls the host's plug.
func (m *Member) Dark() error {
	m.socket.Store(nil)
	return m.Kill()
}

// Dial connects to the member's daemon, as a command on its host would. The
// connection dies with the host's power.
func (m *Member) Dial() (*grpc.ClientConn, error) {
	path := m.socket.Load()
	if path == nil {
		return nil, fmt.Errorf("%s is dark", m.Name())
	}
	return rpc.DialUnix(*path)
}

// Must types a line on the host that has to succeed, and returns its output.
func (m *Member) Must(ctx context.Context, line string) (string, error) {
	ctx, stop := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it did not end within %v", patience))
	defer stop()
	r, err := m.Shell(ctx, line)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: %s: exit code %d: %s", m.Name(), line, r.Code, strings.TrimSpace(r.Stderr))
	}
	return r.Stdout, err
}

// Until tries until ok returns nil, and returns its last error when limit is over.
func Until(ctx context.Context, limit time.Duration, ok func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	var last error
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, errors.Join(last, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
