package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Door is the command line by which somebody on the machine runs argv on the
// host with his own terminal, and the environment to do it in. What runs so is
// not the lab's: it belongs to whoever opened the door, though it dies with the
// host.
func (h *Host) Door(argv ...string) (command, environment []string, err error) {
	if h.machine == nil {
		return nil, nil, fmt.Errorf("lab: open a door to %s: %w", h.name, errDark)
	}
	pid := strconv.Itoa(h.machine.init.Process.Pid)
	command = []string{
		"nsenter", "--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
	}
	return append(command, argv...), h.environment(), nil
}

// Sweep removes what labs under dir left whose owners died: processes, cgroups,
// links, mounts, directories. New does it first; dir is as in Config.
func Sweep(dir string) error {
	if dir == "" {
		dir = defaultDir
	}
	cgroups, err := machineCgroups()
	if err == nil {
		err = sweep(dir, cgroups)
	}
	if err != nil {
		return fmt.Errorf("lab: remove what a crashed lab left: %w", err)
	}
	return nil
}

// Left are the names of the labs under dir whose owners died and that Sweep would
// remove.
func Left(dir string) []string {
	if dir == "" {
		dir = defaultDir
	}
	var out []string
	entries, _ := os.ReadDir(filepath.Clean(dir)) // no directory: nothing is left
	for _, e := range entries {
		if orphaned(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out
}
