// Package containerdtest gives tests a containerd of their own and a registry
// with a small image.
//
// It owns everything it starts: when the test has ended, however it ended, no
// process, mount, cgroup or file of it is left.
package containerdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/agent/containerd/private"
)

// need is set where a test must not be skipped for want of binaries.
const need = "SKEP_NEED_CONTAINERD"

// Binaries returns the directory of containerd, its shim and runc. A test that
// is not root's, or finds no binaries, is skipped, unless SKEP_NEED_CONTAINERD
// is 1: then it fails.
func Binaries(t testing.TB) string {
	t.Helper()
	refuse := t.Skipf
	if os.Getenv(need) == "1" {
		refuse = t.Fatalf
	}
	if os.Geteuid() != 0 {
		refuse("a real containerd needs root (%s=%q)", need, os.Getenv(need))
	}
	dir, err := binDir()
	if err != nil {
		refuse("%v (%s=%q)", err, need, os.Getenv(need))
	}
	return dir
}

// binDir returns the directory SKEP_CONTAINERD_BIN names, so that other versions
// can be tested, or else bin of this module, where "make deps" puts them.
func binDir() (string, error) {
	if dir := os.Getenv("SKEP_CONTAINERD_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		bin := filepath.Join(dir, "bin")
		for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
			if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
				return "", fmt.Errorf("%w: run \"make deps\"", err)
			}
		}
		return bin, nil
	}
	return "", errors.New("not inside the module")
}

// A Host is a private containerd with directories of its own.
type Host struct {
	// Supervisor is the one that runs, until Restart.
	Supervisor *private.Supervisor
	// Dir is for the test's use and is removed with the host.
	Dir string
	// HostsDir is where hosts.toml files are looked up.
	HostsDir string
	// CgroupParent is removed with all its children.
	CgroupParent string

	cfg  private.Config
	halt func()
}

// Start starts a containerd and returns when it answers.
func Start(t testing.TB) *Host {
	t.Helper()
	bin := Binaries(t)
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "skep")
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{Dir: dir, HostsDir: filepath.Join(dir, "certs.d"), CgroupParent: "/" + filepath.Base(dir)}
	h.cfg = private.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		BinDir: bin, HostsDir: h.HostsDir, CgroupPath: h.CgroupParent + "/containerd",
		Log: slog.New(slog.DiscardHandler),
	}
	t.Cleanup(func() { h.clean(t) })
	h.Supervise(t)
	return h
}

// Supervise starts a supervisor, after Halt, and returns when containerd
// answers.
func (h *Host) Supervise(t testing.TB) {
	t.Helper()
	s, err := private.New(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- s.Run(ctx) })
	h.Supervisor, h.halt = s, func() { stop(); wg.Wait() }
	select {
	case <-s.Ready():
	case err := <-failed:
		t.Fatalf("supervise: %v", err)
	case <-time.After(time.Minute):
		output, _ := os.ReadFile(filepath.Join(h.cfg.StateDir, "containerd.log"))
		t.Fatalf("containerd does not answer: %s", output)
	}
}

// Halt ends the supervisor as the end of the daemon would: containerd runs on.
func (h *Host) Halt() { h.halt() }

// PID returns containerd's process.
func (h *Host) PID(t testing.TB) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.cfg.RunDir, "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// clean removes everything: containers by containerd's own hand while it
// answers, and what is left then by force.
func (h *Host) clean(t testing.TB) {
	if h.halt != nil {
		h.halt()
	}
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	var errs []error
	if h.Supervisor != nil {
		removeContainers(ctx, h.Supervisor.Address())
		errs = append(errs, h.Supervisor.Stop(ctx))
	}
	killBelow(h.Dir)
	errs = append(errs, unmountBelow(h.Dir), removeCgroups(h.CgroupParent), os.RemoveAll(h.Dir))
	if err := errors.Join(errs...); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// removeContainers removes every container of every namespace. What it cannot
// remove is removed by force later.
func removeContainers(ctx context.Context, address string) {
	c, err := client.New(address, client.WithTimeout(time.Second))
	if err != nil {
		return
	}
	defer c.Close() //nolint:errcheck // only asked
	all, _ := c.NamespaceService().List(ctx)
	for _, namespace := range all {
		ctx := namespaces.WithNamespace(ctx, namespace)
		found, _ := c.Containers(ctx)
		for _, container := range found {
			if task, err := container.Task(ctx, nil); err == nil {
				_, _ = task.Delete(ctx, client.WithProcessKill)
			}
			_ = container.Delete(ctx, client.WithSnapshotCleanup)
		}
	}
}

// killBelow kills the shims that work in a directory below dir, their children
// first: those would outlive them.
func killBelow(dir string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if cwd, err := os.Readlink(p + "/cwd"); err != nil || !strings.HasPrefix(cwd, dir+"/") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(p))
		forget(p + "/cwd")
		children, _ := os.ReadFile(fmt.Sprintf("%s/task/%d/children", p, pid))
		for _, child := range strings.Fields(string(children)) {
			if c, err := strconv.Atoi(child); err == nil {
				_ = unix.Kill(c, unix.SIGKILL)
			}
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// forget removes what the shim of a bundle keeps outside of it: its socket, and
// runc's notes.
func forget(bundle string) {
	var boot struct {
		Address string `json:"address"`
	}
	if data, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json")); err == nil && json.Unmarshal(data, &boot) == nil {
		_ = os.Remove(strings.TrimPrefix(boot.Address, "unix://"))
	} else if data, err := os.ReadFile(filepath.Join(bundle, "address")); err == nil {
		_ = os.Remove(strings.TrimPrefix(string(data), "unix://"))
	}
	if path, err := os.Readlink(bundle); err == nil {
		namespace, id := filepath.Base(filepath.Dir(path)), filepath.Base(path)
		_ = os.RemoveAll(filepath.Join("/run/containerd/runc", namespace, id))
	}
}

// unmountBelow unmounts what is mounted below dir, the latest first.
func unmountBelow(dir string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, line := range slices.Backward(strings.Split(string(info), "\n")) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			errs = append(errs, unix.Unmount(fields[4], unix.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}

// removeCgroups kills what runs in a cgroup and removes it from every
// hierarchy.
func removeCgroups(parent string) error {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + parent)
	if err != nil {
		return err
	}
	dirs = append(dirs, "/sys/fs/cgroup"+parent)
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeCgroup(dir))
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return nil // what vanishes meanwhile is removed
	})
	for _, g := range slices.Backward(groups) {
		err = errors.Join(err, rmdirWhenEmpty(g))
	}
	return err
}

// rmdirWhenEmpty removes a cgroup as soon as the processes in it, which it
// kills, have gone.
func rmdirWhenEmpty(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, p := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
		time.Sleep(10 * time.Millisecond) // the kernel has no event for this
	}
}
