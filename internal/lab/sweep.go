package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// namePrefix begins the name of every lab; the owner's pid and the time that
// process started follow, then the lab's number within it.
const namePrefix = "skep-lab-"

func ownName() string {
	pid := os.Getpid()
	return fmt.Sprintf("%s%d-%s-%d", namePrefix, pid, startTime(pid), labs.Add(1))
}

// shortID is the lab's name where names have 15 letters at most.
func shortID() string {
	return fmt.Sprintf("sk%d%c", os.Getpid(), 'a'+rune(labs.Load()%26))
}

// startTime is field 22 of /proc/PID/stat: when the process started, in ticks
// since boot; empty if there is no such process.
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may hold anything else
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// orphaned tells whether name is a lab's whose owner is gone.
func orphaned(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	return err == nil && startTime(pid) != parts[1]
}

// sweep removes what labs whose owners died left behind: processes, cgroups,
// links, mounts, directories.
func sweep(dir string, cgroups []cgroup) error {
	stale := map[string]bool{}
	note := func(name string) {
		if orphaned(name) {
			stale[name] = true
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		note(link.Attrs().Alias)
	}
	for _, root := range append([]string{dir}, mounts(cgroups)...) {
		entries, _ := os.ReadDir(root)
		for _, e := range entries {
			note(e.Name())
		}
	}
	var all []error
	for name := range stale {
		all = append(all, thaw(name, cgroups)) // the frozen cannot be killed
		for _, at := range mountsBelow(filepath.Join(dir, name)) {
			_ = demand(at, fiThaw) // nor those who wait for a disk
		}
		for _, c := range cgroups {
			all = append(all, c.remove(name))
		}
		all = append(all, removeLinks(name), removeDir(filepath.Join(dir, name)))
	}
	return errors.Join(all...)
}

// thaw lets every host of a lab go on.
func thaw(name string, cgroups []cgroup) error {
	var all []error
	for _, c := range cgroups {
		hosts, _ := os.ReadDir(c.path(name))
		for _, h := range hosts {
			if h.IsDir() {
				_, err := c.freeze(name, h.Name(), false)
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}

func mounts(cgroups []cgroup) (dirs []string) {
	for _, c := range cgroups {
		dirs = append(dirs, c.Mount)
	}
	return dirs
}
