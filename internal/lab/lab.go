package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// defaultDir is where labs keep their hosts' state if nobody says otherwise.
const defaultDir = "/var/lib/skep-lab"

// Config configures a Lab. The zero value of every field but Bin works.
type Config struct {
	// Bin is the directory of the binaries under test: ctl, containerd and
	// its kin. Hosts see it as BinDir. Required.
	Bin string
	// Dir is where labs keep their hosts' state, each under its own name.
	// Zero means /var/lib/skep-lab. A directory on an overlay file system,
	// which containerd cannot keep images on, is covered by a tmpfs.
	Dir string
	// Subnet is the /24 the hosts live in. Zero means a free one of 10/8.
	Subnet netip.Prefix
	// Log receives what the lab does. Zero means nobody.
	Log *slog.Logger
}

// A Lab is one bridge, its hosts and its registry. Its methods may be called
// by several goroutines; those of one host by one at a time.
type Lab struct {
	config   Config
	name     string
	id       string // short, for the names of links
	dir      string
	covered  bool // dir is a tmpfs of ours
	net      network
	cgroups  []cgroup
	registry *registryServer
	log      *slog.Logger

	mu      sync.Mutex // guards the fields below; held for memory, the small hosts files and the opening of private only
	hosts   []*Host
	private *registryServer // nil until Private
}

// labs counts the labs of this process, to tell their names apart.
var labs atomic.Int64

// New removes what crashed labs left, and makes a lab without hosts. The
// caller owns it and calls Close.
func New(ctx context.Context, config Config) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: needs root, to make namespaces, links and cgroups; run it with sudo")
	}
	if config.Dir == "" {
		config.Dir = defaultDir
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if info, err := os.Stat(config.Bin); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("lab: bin %q: want the directory of the binaries under test (make build runtime)", config.Bin)
	}
	bin, err := filepath.Abs(config.Bin)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	config.Bin = bin
	cgroups, err := machineCgroups()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := sweep(config.Dir, cgroups); err != nil {
		return nil, fmt.Errorf("lab: remove what a crashed lab left: %w", err)
	}
	l := &Lab{config: config, name: ownName(), id: shortID(), cgroups: cgroups, log: config.Log}
	l.dir = filepath.Join(config.Dir, l.name)
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context) error {
	if err := l.makeDir(); err != nil {
		return err
	}
	var err error
	if l.net, err = newNetwork(l.name, l.id, l.config.Subnet); err != nil {
		return err
	}
	at := netip.AddrPortFrom(l.net.gateway(), registryPort)
	if l.registry, err = serveRegistry(ctx, at, nil, "library/alpine:latest", "library/busybox:latest"); err != nil {
		return err
	}
	l.log.Info("lab is open", slog.String("name", l.name), slog.String("subnet", l.net.subnet.String()))
	return nil
}

// makeDir makes the lab's directory, on a tmpfs if it would lie on an overlay.
func (l *Lab) makeDir() error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(l.dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", l.dir, err)
	}
	if fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return nil
	}
	if err := unix.Mount("skep-lab", l.dir, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("tmpfs on %s (an overlay, which cannot hold another): %w", l.dir, err)
	}
	l.covered = true
	return nil
}

var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Host adds a host, which has a name and an address but does not run yet.
func (l *Lab) Host(name string) (*Host, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("lab: host name %q: want small letters, digits and dashes", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.name == name {
			return nil, fmt.Errorf("lab: host %s exists", name)
		}
	}
	h := &Host{
		lab: l, name: name, number: len(l.hosts) + 1,
		dir: filepath.Join(l.dir, name), log: l.log.With(slog.String("host", name)),
		drops: map[netip.Addr]int{},
	}
	h.address = l.net.host(h.number)
	if err := h.furnishDir(); err != nil {
		return nil, fmt.Errorf("lab: host %s: %w", name, err)
	}
	l.hosts = append(l.hosts, h)
	return h, l.writeNames()
}

// writeNames tells every host the names of all. The files are bound into
// running hosts, so they are written in place.
func (l *Lab) writeNames() error {
	text := "127.0.0.1\tlocalhost\n" + l.net.gateway().String() + "\tgateway registry.lab\n"
	for _, h := range l.hosts {
		text += h.address.String() + "\t" + h.name + "\n"
	}
	for _, h := range l.hosts {
		if err := os.WriteFile(filepath.Join(h.dir, "hosts"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("lab: names of host %s: %w", h.name, err)
		}
	}
	return nil
}

// Gateway is the address every host can reach while its link is up: the
// bridge's own, where the registry listens. No partition cuts it off.
func (l *Lab) Gateway() netip.Addr { return l.net.gateway() }

// Name names the lab and everything it makes.
func (l *Lab) Name() string { return l.name }

// Close kills every host and removes all that the lab made.
func (l *Lab) Close() error {
	l.mu.Lock()
	hosts, private := l.hosts, l.private
	l.mu.Unlock()
	all := make([]error, len(hosts))
	var killing sync.WaitGroup
	for i, h := range hosts {
		killing.Go(func() { all[i] = h.Kill() })
	}
	killing.Wait()
	for _, r := range []*registryServer{l.registry, private} {
		if r != nil {
			all = append(all, r.Close())
		}
	}
	all = append(all, removeLinks(l.name))
	for _, c := range l.cgroups {
		all = append(all, c.remove(l.name))
	}
	all = append(all, removeDir(l.dir))
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("lab: close: %w", err)
	}
	return nil
}

// removeDir removes a lab's directory, and the tmpfs on it if there is one.
func removeDir(dir string) error {
	if err := removeDisks(dir); err != nil {
		return fmt.Errorf("disks below %s: %w", dir, err)
	}
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}
