package containerd

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// cgroupMount shows a container its own control group, and nothing else of the
// host's: programs size themselves by the limits they read there.
var cgroupMount = specs.Mount{Type: "cgroup", Source: "cgroup", Destination: cgroupRoot,
	Options: []string{"ro", "nosuid", "noexec", "nodev", "relatime"}}

// cgroupRoot is where the kernel's control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// oomKills returns how many processes of a cgroup the kernel has killed for
// want of memory; 0 if it cannot be known. group is the path below the root of
// the hierarchy: of the memory controller's own (v1) or of the one (v2).
func oomKills(root, group string) int {
	for _, file := range []string{
		filepath.Join(root, group, "memory.events"),
		filepath.Join(root, "memory", group, "memory.oom_control"),
	} {
		if n, ok := counter(file, "oom_kill"); ok {
			return n
		}
	}
	return 0
}

// counter reads the line "name value" of a file.
func counter(file, name string) (int, bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var key string
		var value int
		if n, _ := fmt.Sscan(lines.Text(), &key, &value); n == 2 && key == name {
			return value, true
		}
	}
	return 0, false
}

// unified reports whether the host has control groups of version 2 only.
func unified(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// swapLimited reports whether the kernel can bound a cgroup's swap.
func swapLimited(root string) bool {
	if unified(root) {
		return true // or there is no swap at all
	}
	_, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}
