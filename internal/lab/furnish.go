package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What a process on a host sees of the lab.
const (
	// BinDir holds the binaries under test; it is first in PATH.
	BinDir = "/run/skep-lab/bin"
	// hostDir is the host's own directory, kept over its boots.
	hostDir = "/run/skep-lab/host"
	// BootIDFile holds the id of this boot, as the kernel's own would.
	BootIDFile = hostDir + "/boot-id"
	// StateDir is kept over boots; the rest of /var/lib is not.
	StateDir = "/var/lib/skep"

	searchPath = BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// furnish makes the mount namespace of the calling process into the host's:
// its own /proc, /run, /tmp, /var/lib, /etc and cgroup mounts.
func furnish(s spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	// Both may lie under what is about to be hidden.
	bin, err := unix.Open(s.Bin, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Bin, err)
	}
	host, err := unix.Open(s.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Dir, err)
	}
	for _, m := range []struct{ kind, target, data string }{
		{"proc", "/proc", ""},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/var/lib", "mode=0755"},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, unix.MS_NOSUID|unix.MS_NODEV, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := errors.Join(
		os.MkdirAll("/run/lock", 0o755),
		bind(fmt.Sprintf("/proc/self/fd/%d", bin), BinDir),
		bind(fmt.Sprintf("/proc/self/fd/%d", host), hostDir),
		bind(hostDir+"/state", StateDir),
		privateEtc(),
		enterCgroups(s.Cgroups),
		unix.Sethostname([]byte(s.Name)),
	); err != nil {
		return fmt.Errorf("host %s: %w", s.Name, err)
	}
	return nil
}

// bind mounts a directory of the host's, and the disk in it, on a target it makes.
func bind(source, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

// privateEtc lays the host's own files over the machine's /etc. The hosts file
// is bound besides, so that the owner can add names while the host runs.
func privateEtc() error {
	options := "lowerdir=/etc,upperdir=" + hostDir + "/etc,workdir=" + hostDir + "/work"
	if err := unix.Mount("overlay", "/etc", "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay on /etc: %w", err)
	}
	if err := unix.Mount(hostDir+"/hosts", "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind /etc/hosts: %w", err)
	}
	return nil
}

// enterCgroups makes the calling process's cgroups the roots of what the host
// sees. On the unified hierarchy the process steps down into a leaf, because
// only a cgroup without processes may share its controllers out.
func enterCgroups(all []cgroup) error {
	for _, c := range all {
		if err := unix.Unmount(c.Mount, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", c.Mount, err)
		}
		if err := unix.Mount(c.Kind, c.Mount, c.Kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, c.Options); err != nil {
			return fmt.Errorf("mount %s: %w", c.Mount, err)
		}
		if c.Kind != "cgroup2" || len(all) > 1 {
			continue
		}
		leaf := filepath.Join(c.Mount, "init")
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
		shareControllers(c.Mount)
	}
	return nil
}

// lookPath finds a command as the host's shell would.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("command %q: not in %s", name, searchPath)
}
