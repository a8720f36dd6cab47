// Package node is the process on each host: identity first, then the agent, then
// the manager side if the node's record says so.
//
// It owns the state directory, the unix socket and the life cycle: waiting to be
// told init or join, living as a member, leaving. It decides nothing about the
// cluster; what the cluster wants of this node it hears over the agent's session.
//
// Invariants: one daemon per state directory; an identity is on the disk before
// it is used; containers are touched by the agent only, never by a start or a
// stop of this process.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/agent/containerd/private"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/metrics"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// Config configures a node. StateDir, RunDir and Log are required.
type Config struct {
	// StateDir holds what survives a reboot, RunDir what does not.
	StateDir, RunDir string
	// Hostname is what the node is called. Empty: the kernel's name.
	Hostname string
	// Advertise is where others reach this node from now on: an address or an
	// interface, with or without a port. Empty: where init or join said, or where
	// the machine's address has gone since.
	Advertise string
	// Containerd is the socket of a containerd to use. Empty: a private one.
	Containerd string
	// HostsDir is where registries' hosts.toml files are. Empty: containerd's default.
	HostsDir string
	// CgroupParent gets a child for each container. Empty: the runtime's default.
	CgroupParent string
	// BootIDFile is read for the kernel's boot id. Empty: the kernel's own.
	BootIDFile string
	// UnlockCommand is a command line of the shell that prints the unlock key, for a
	// manager that starts locked. Empty: an operator gives the key. UnlockEnv is all
	// the environment it gets.
	UnlockCommand string
	UnlockEnv     []string
	// Metrics is where figures and health are told. Zero: nowhere.
	Metrics metrics.Address
	// FIPS: the cryptography of this process is in FIPS 140-3 mode, and FIPSModule
	// is the version of the module that does it.
	FIPS       bool
	FIPSModule string
	// Outside is what the node meets beyond its process. Nil is the machine's own.
	Outside *Outside
	// HostDown, if closed when the node stops, says that the host goes down with
	// it: its tasks are replaced at once (R4). May be nil.
	HostDown <-chan struct{}
	// Log receives records.
	Log *slog.Logger
}

// stopGrace bounds an orderly stop.
const stopGrace = 10 * time.Second

// A Node is the daemon of one host.
type Node struct {
	cfg         Config
	state       *os.Root
	lock        io.Closer
	keys        *keystore.Store
	holder      *ca.Holder
	server      *rpc.Server
	incarnation id.ID
	boot        []byte
	orders      chan order

	mu    sync.Mutex // guards the fields below
	phase localv1.State
	fault error
	life  *life
	wait  wait
	// changed is closed, and another made, when one of them changes.
	changed chan struct{}
}

// Run is the daemon, until ctx ends. Started is called once commands are served.
func Run(ctx context.Context, cfg Config, started func()) (err error) {
	n, err := open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.lock.Close(), n.state.Close()) }()
	socket, told, err := n.listenAll()
	if err != nil {
		return err
	}
	// Serving outlives ctx: the last words of an orderly stop are answered.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.server.ServeUnix(socket) })
	if told != nil {
		g.Go(func() error { n.serveMetrics(ctx, told); return nil })
	}
	if cfg.Containerd == "" && cfg.Outside == nil {
		g.Go(func() error { return n.superviseContainerd(ctx) })
	}
	g.Go(func() error {
		err := n.live(ctx)
		bye, stop := context.WithTimeout(serving, stopGrace)
		defer stop()
		_, _ = sddaemon.SdNotify(false, sddaemon.SdNotifyStopping) // not under systemd: nothing to tell
		n.server.Stop(bye)
		return err
	})
	_, _ = sddaemon.SdNotify(false, sddaemon.SdNotifyReady) // not under systemd: nothing to tell
	if started != nil {
		started()
	}
	return g.Wait()
}

// open takes the state directory and makes what needs no identity.
func open(cfg Config) (*Node, error) {
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("directory %q: want an absolute path", dir)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	n := &Node{cfg: cfg, holder: &ca.Holder{}, incarnation: id.New(), orders: make(chan order), changed: make(chan struct{}), phase: localv1.State_STATE_INACTIVE}
	var err error
	if n.boot, err = bootID(cfg.BootIDFile); err != nil {
		return nil, err
	}
	if n.cfg.Hostname == "" {
		if n.cfg.Hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("hostname: %w: name the node with --hostname", err)
		}
	}
	if n.state, err = os.OpenRoot(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	if n.lock, err = durable.Lock(n.state, "lock"); err != nil {
		return nil, errors.Join(fmt.Errorf("state directory %s: %w", cfg.StateDir, err), n.state.Close())
	}
	if err := n.furnish(); err != nil {
		return nil, errors.Join(err, n.lock.Close(), n.state.Close())
	}
	return n, nil
}

// furnish opens the key store and offers every service there may ever be.
func (n *Node) furnish() error {
	if err := n.state.MkdirAll("keys", 0o700); err != nil {
		return err
	}
	dir, err := n.state.OpenRoot("keys")
	if err != nil {
		return err
	}
	if n.keys, err = keystore.Open(dir); err != nil {
		return err
	}
	n.phase = n.firstPhase()
	n.server, err = rpc.NewServer(rpc.Config{Credential: n.holder, Managers: n.managerAddresses, Coming: n.managerComes, Shut: n.shut, Log: n.cfg.Log})
	if err != nil {
		return err
	}
	for _, desc := range offered {
		n.server.Offer(desc)
	}
	n.server.Mount(&localv1.Local_ServiceDesc, &local{node: n})
	return n.server.Check()
}

// listenAll opens the socket that ctl talks to and, if there is to be one, the
// address where metrics are told.
func (n *Node) listenAll() (socket, told net.Listener, err error) {
	if socket, err = n.listenUnix(); err != nil || n.cfg.Metrics.IsZero() {
		return socket, nil, err
	}
	if told, err = n.cfg.Metrics.Listen(); err != nil {
		return nil, nil, errors.Join(err, socket.Close())
	}
	return socket, told, nil
}

// listenUnix opens the socket that ctl talks to: 0660, and the server checks who
// is at the other end.
func (n *Node) listenUnix() (net.Listener, error) {
	path := filepath.Join(n.cfg.RunDir, "ctl.sock")
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it answers: that is all there was to learn
		return nil, fmt.Errorf("another daemon answers on %s: give this one a --run-dir of its own", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	if n.cfg.Outside != nil {
		return n.cfg.Outside.ListenUnix(path)
	}
	old := unix.Umask(0o117) // the socket is born with its mode; nobody slips in before a chmod
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen for ctl: %w", err)
	}
	// The directory lets the socket's group through to it and shows nothing else.
	if err := os.Chmod(n.cfg.RunDir, 0o711); err != nil { //nolint:gosec // search only, so that the socket's own mode decides
		return nil, errors.Join(fmt.Errorf("open run directory to the socket's group: %w", err), l.Close())
	}
	return l, nil
}

// superviseContainerd keeps the private containerd running. It is left running
// when ctx ends (D12).
func (n *Node) superviseContainerd(ctx context.Context) error {
	sup, err := private.New(private.Config{
		StateDir: filepath.Join(n.cfg.StateDir, "containerd"), RunDir: n.containerdRun(),
		HostsDir: n.cfg.HostsDir, CgroupPath: n.privateCgroup(), Log: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	if err := sup.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (n *Node) containerdRun() string { return filepath.Join(n.cfg.RunDir, "containerd") }

// privateCgroup is where the private containerd itself lives, so that a stop of
// the daemon's own cgroup does not take it along.
func (n *Node) privateCgroup() string {
	if n.cfg.CgroupParent == "" {
		return ""
	}
	return filepath.Join(n.cfg.CgroupParent, "containerd")
}

// containerdAddress is the socket the runtime is reached at.
func (n *Node) containerdAddress() string {
	if n.cfg.Containerd != "" {
		return n.cfg.Containerd
	}
	return filepath.Join(n.containerdRun(), "containerd.sock")
}

// hello is what this node says first on every stream (R27).
func (n *Node) hello() *rpcv1.Hello {
	return &rpcv1.Hello{
		Version: version.Version, FeatureLevel: version.FeatureLevel,
		Boot: n.boot, Incarnation: n.incarnation.Bytes(), Fips: n.cfg.FIPS,
	}
}

// bootID reads the kernel's boot id, or draws one if the file is empty.
func bootID(path string) ([]byte, error) {
	if path == "" {
		path = "/proc/sys/kernel/random/boot_id"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	if len(text) < 16 {
		text = make([]byte, 16)
		_, _ = rand.Read(text) // never fails: the runtime ends the process instead
	}
	return text[:min(len(text), 36)], nil
}

// set records the phase for "ctl info".
func (n *Node) set(phase localv1.State, l *life, fault error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase, n.life, n.fault = phase, l, fault
	close(n.changed)
	n.changed = make(chan struct{})
}

// get returns the phase, the life if there is one, and what is wrong.
func (n *Node) get() (localv1.State, *life, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.phase, n.life, n.fault
}

// next returns a channel that is closed when the phase changes.
func (n *Node) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// managerAddresses is where managers are, as far as this node knows.
func (n *Node) managerAddresses() []string {
	_, l, _ := n.get()
	if l == nil {
		return nil
	}
	var out []string
	for _, m := range l.managers().GetManagers() {
		out = append(out, m.GetAddress())
	}
	return out
}

// managerComes reports whether this node is a member of the managers' group by
// what is on its disk, and nothing is wrong with that: who asks while it is not
// served comes too early, or too late for this process.
func (n *Node) managerComes() bool {
	f, err := readFacts(n.state)
	if err != nil || f.Member == 0 {
		return false
	}
	_, l, fault := n.get()
	return fault == nil && (l == nil || l.look().fault == nil)
}

// errInactive is the refusal of what needs a swarm.
func errInactive() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "this node is not part of a swarm"),
		`start one with "ctl swarm init", or join one with "ctl swarm join"`)
}
