package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bootTimeout bounds the time from a host's power-on to its init's first word.
const bootTimeout = 20 * time.Second

// A Host is one machine of a lab. It is dark until Boot and again after Kill;
// its directory, and so /var/lib/skep and /etc, outlive both.
type Host struct {
	lab     *Lab
	name    string
	number  int
	address netip.Addr
	dir     string
	log     *slog.Logger

	daemon  *Proc // the last daemon started, nil before the first
	frozen  bool
	disk    bool               // StateDir is on a disk of its own
	stalled bool               // and that disk holds back every write
	drops   map[netip.Addr]int // per peer, how many of 100 of its packets are lost here
	machine *machine           // nil while dark
}

// A machine is one boot of a host.
type machine struct {
	init    *exec.Cmd
	control *net.UnixConn
	down    chan struct{} // closed when nothing of this boot is left to hear from
	cut     bool          // a table of losses has been written

	mu    sync.Mutex // guards the fields below; held for memory only
	seq   uint64
	procs map[uint64]*Proc      // running, by the sequence that started them
	calls map[uint64]chan reply // requests that wait for their answer
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Address is the host's address on the bridge.
func (h *Host) Address() netip.Addr { return h.address }

// Dir is the host's directory as the lab's owner sees it; state/ in it is the
// host's /var/lib/skep.
func (h *Host) Dir() string { return h.dir }

// Inside is where the lab's owner finds a path of the running host, in what the
// host itself mounted: a socket in its /run, for one. It is "" of a dark host,
// and another one after each boot.
func (h *Host) Inside(path string) string {
	if h.machine == nil {
		return ""
	}
	return filepath.Join("/proc", strconv.Itoa(h.machine.init.Process.Pid), "root", path)
}

// Up tells whether the host has power.
func (h *Host) Up() bool { return h.machine != nil }

// furnishDir makes what outlives the host's boots.
func (h *Host) furnishDir() error {
	certs := filepath.Join(h.dir, "etc/containerd/certs.d/docker.io")
	registry := "http://" + h.lab.registry.address
	mirror := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", registry, registry)
	for _, dir := range []string{"state", "work", "log"} {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(certs, "hosts.toml"), []byte(mirror), 0o644),
		os.WriteFile(filepath.Join(h.dir, "etc/hosts"), nil, 0o644),
		os.WriteFile(filepath.Join(h.dir, "etc/hostname"), []byte(h.name+"\n"), 0o644),
		os.WriteFile(filepath.Join(h.dir, "etc/resolv.conf"), []byte("# names are in /etc/hosts\noptions timeout:1 attempts:1\n"), 0o644),
	)
}

// Boot gives the host power: a new boot id, empty /run and /tmp, no processes
// but its init. Start is the same thing said the first time.
func (h *Host) Boot(ctx context.Context) error {
	if h.machine != nil {
		return fmt.Errorf("lab: host %s is up already", h.name)
	}
	m, err := h.powerOn(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("lab: boot %s: %w", h.name, err), h.powerOff(m))
	}
	h.machine = m
	if err := h.applyDrops(ctx); err != nil {
		return errors.Join(err, h.Kill())
	}
	h.log.Info("host is up", slog.String("addr", h.address.String()))
	return nil
}

// Start boots the host for the first time.
func (h *Host) Start(ctx context.Context) error { return h.Boot(ctx) }

func (h *Host) powerOn(ctx context.Context) (*machine, error) {
	if err := os.WriteFile(filepath.Join(h.dir, "boot-id"), []byte(bootID()+"\n"), 0o644); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	m := &machine{control: ours, down: make(chan struct{}), procs: map[uint64]*Proc{}, calls: map[uint64]chan reply{}}
	first := make(chan reply, 1)
	m.calls[0] = first
	m.init, err = h.startInit(theirs)
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	go m.listen()
	for _, c := range h.lab.cgroups {
		if err := errors.Join(c.make(h.lab.name, h.name), c.enter(m.init.Process.Pid, h.lab.name, h.name)); err != nil {
			return m, err
		}
	}
	if err := h.lab.net.wire(h.number, m.init.Process.Pid); err != nil {
		return m, err
	}
	if _, err := ours.Write([]byte("g")); err != nil {
		return m, fmt.Errorf("wake init: %w", err)
	}
	ctx, stop := context.WithTimeoutCause(ctx, bootTimeout, errors.New("its init said nothing for "+bootTimeout.String()))
	defer stop()
	select {
	case r := <-first:
		if r.Err != "" {
			return m, errors.New(r.Err)
		}
		return m, h.lab.net.carried(ctx, h.number)
	case <-m.down:
		return m, errors.New("its init died")
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
}

// startInit starts this program again as the first process of new namespaces.
func (h *Host) startInit(control *os.File) (*exec.Cmd, error) {
	s, err := json.Marshal(spec{
		Name: h.name, Dir: h.dir, Bin: h.lab.config.Bin, Cgroups: h.lab.cgroups,
		Link: h.lab.net.far(h.number), Address: h.lab.net.cidr(h.number), Gateway: h.lab.net.gateway().String(),
	})
	if err != nil {
		return nil, err
	}
	console, err := os.OpenFile(filepath.Join(h.dir, "log/init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"lab-init"}
	cmd.Env = []string{stageVariable + "=furnish", specVariable + "=" + string(s)}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start init in new namespaces: %w", err)
	}
	return cmd, nil
}

// Kill pulls the plug: the link goes dark, so nobody hears a goodbye, and then
// every process of the host dies at once. A host that is dark stays so.
func (h *Host) Kill() error {
	if h.machine == nil {
		return nil
	}
	m := h.machine
	h.machine = nil
	if err := h.powerOff(m); err != nil {
		return fmt.Errorf("lab: kill %s: %w", h.name, err)
	}
	h.log.Info("host is dark")
	return nil
}

func (h *Host) powerOff(m *machine) error {
	if m == nil {
		return nil
	}
	_ = h.lab.net.dark(h.number, true)                     // a host that never got its wire is dark already
	all := []error{m.init.Process.Kill(), h.ReleaseDisk()} // who waits for a disk cannot die
	if h.frozen {
		all = append(all, h.freeze(false)) // the frozen die when they thaw
	}
	_ = m.init.Wait() // "killed" is what we want to hear
	_ = m.control.Close()
	<-m.down
	all = append(all, h.lab.net.unwire(h.number))
	for _, c := range h.lab.cgroups {
		all = append(all, c.remove(h.lab.name, h.name))
	}
	return errors.Join(all...)
}

// Pause stops every process of the host where it stands, as a paused virtual
// machine or a long stall would; Resume lets them go on.
func (h *Host) Pause() error { return h.freeze(true) }

// Resume undoes Pause.
func (h *Host) Resume() error { return h.freeze(false) }

func (h *Host) freeze(stop bool) error {
	some := false
	for _, c := range h.lab.cgroups {
		did, err := c.freeze(h.lab.name, h.name, stop)
		if err != nil {
			return fmt.Errorf("lab: freeze %s: %w", h.name, err)
		}
		some = some || did
	}
	if !some {
		return fmt.Errorf("lab: freeze %s: this machine has no freezer cgroup", h.name)
	}
	h.frozen = stop
	return nil
}

// Unplug takes the host's link down and leaves its processes running; Plug
// brings it back.
func (h *Host) Unplug() error { return h.lab.net.dark(h.number, true) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.lab.net.dark(h.number, false) }

// bootID draws an id in the form the kernel gives its own.
func bootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// socketPair makes the two ends of a control socket.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("control socket: %w", err), far.Close())
	}
	return conn.(*net.UnixConn), far, nil
}
