package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// taskDir returns the directory of a task's own files.
func (r *Runtime) taskDir(id string) string {
	return filepath.Join(r.cfg.StateDir, "tasks", id)
}

// logFile returns the file that gets what the task prints.
func (r *Runtime) logFile(id string) string { return filepath.Join(r.taskDir(id), "log") }

// writeFiles makes the task's directory and returns the mounts of the files a
// container needs to find its way: names and name servers are the host's,
// because the network is.
func (r *Runtime) writeFiles(s exec.Spec, c *modelv1.ContainerSpec) ([]specs.Mount, error) {
	dir := r.taskDir(s.Task.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	hostname := or(c.GetHostname(), s.Task.Short())
	hosts, err := hostsFile("/etc/hosts", hostname, c.GetHosts())
	if err != nil {
		return nil, exec.Rejected(err)
	}
	mounts := []specs.Mount{
		readOnly(filepath.Join(dir, "hosts"), "/etc/hosts"),
		readOnly(filepath.Join(dir, "hostname"), "/etc/hostname"),
	}
	// These are readable by all: the container's users read them.
	err = errors.Join(
		os.WriteFile(mounts[0].Source, []byte(hosts), 0o644),
		os.WriteFile(mounts[1].Source, []byte(hostname+"\n"), 0o644))
	if err != nil {
		return nil, err
	}
	if resolv, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil {
		mounts = append(mounts, readOnly(resolv, "/etc/resolv.conf"))
	}
	return mounts, nil
}

func readOnly(source, target string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: target,
		Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}}
}

// hostsFile returns the host's hosts file with the container's own name and the
// service's extra entries, each "ADDRESS NAME..." or "NAME:ADDRESS".
func hostsFile(path, hostname string, extra []string) (string, error) {
	var out strings.Builder
	host, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if len(host) == 0 {
		host = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	}
	out.WriteString(strings.TrimRight(string(host), "\n") + "\n")
	fmt.Fprintf(&out, "127.0.1.1\t%s\n", hostname)
	for _, entry := range extra {
		line, err := hostsLine(entry)
		if err != nil {
			return "", err
		}
		out.WriteString(line)
	}
	return out.String(), nil
}

func hostsLine(entry string) (string, error) {
	fields := strings.Fields(entry)
	if len(fields) == 1 {
		name, address, _ := strings.Cut(fields[0], ":")
		fields = []string{strings.Trim(address, "[]"), name}
	}
	if len(fields) < 2 || fields[1] == "" {
		return "", fmt.Errorf("host entry %q: want \"ADDRESS NAME\" or \"NAME:ADDRESS\"", entry)
	}
	if _, err := netip.ParseAddr(fields[0]); err != nil {
		return "", fmt.Errorf("host entry %q: %w", entry, err)
	}
	return fields[0] + "\t" + strings.Join(fields[1:], " ") + "\n", nil
}
