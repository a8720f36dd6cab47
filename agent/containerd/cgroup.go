package containerd

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
)

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

// swapLimited reports whether the kernel can bound a cgroup's swap.
func swapLimited(root string) bool {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return true // v2 does, or has no swap at all
	}
	_, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}
