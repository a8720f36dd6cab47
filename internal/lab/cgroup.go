package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A cgroup is one hierarchy of the machine: one per controller in version 1,
// the unified one in version 2, both on a hybrid machine.
type cgroup struct {
	Mount   string `json:"mount"`
	Kind    string `json:"kind"`    // cgroup or cgroup2
	Options string `json:"options"` // what names the hierarchy when it is mounted again
}

// machineCgroups lists the hierarchies that are mounted below /sys/fs/cgroup.
func machineCgroups() ([]cgroup, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	defer f.Close()
	var all []cgroup
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if c, ok := parseCgroup(lines.Text()); ok {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("cgroups: none mounted below /sys/fs/cgroup; mount them, or run the container privileged")
	}
	return all, nil
}

// parseCgroup reads one line of mountinfo: fields, " - ", kind, source, options.
func parseCgroup(line string) (cgroup, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(head), strings.Fields(tail)
	if !ok || len(fields) < 5 || len(rest) < 3 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
		return cgroup{}, false
	}
	c := cgroup{Mount: fields[4], Kind: rest[0]}
	switch c.Kind {
	case "cgroup2":
		return c, true
	case "cgroup":
		var named []string
		for option := range strings.SplitSeq(rest[2], ",") {
			if !slices.Contains([]string{"rw", "ro", "relatime", "xattr", "clone_children", "noprefix"}, option) &&
				!strings.HasPrefix(option, "release_agent=") {
				named = append(named, option)
			}
		}
		if slices.ContainsFunc(named, func(o string) bool { return strings.HasPrefix(o, "name=") }) {
			named = append([]string{"none"}, named...)
		}
		c.Options = strings.Join(named, ",")
		return c, true
	}
	return cgroup{}, false
}

// path is where a lab's or host's own cgroup lies in the hierarchy.
func (c cgroup) path(name ...string) string {
	return filepath.Join(append([]string{c.Mount}, name...)...)
}

// make creates the nested cgroup lab/host, ready to take processes.
func (c cgroup) make(lab, host string) error {
	for _, at := range []string{c.path(lab), c.path(lab, host)} {
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
		// A new cpuset is empty, and takes no process until it has its parent's.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if c.Kind == "cgroup" {
				inherit(filepath.Dir(at), at, file)
			}
		}
		if c.Kind == "cgroup2" {
			shareControllers(filepath.Dir(at))
		}
	}
	return nil
}

func inherit(parent, child, file string) {
	have, err := os.ReadFile(filepath.Join(child, file))
	if err != nil || strings.TrimSpace(string(have)) != "" {
		return
	}
	if value, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
		_ = os.WriteFile(filepath.Join(child, file), value, 0o644)
	}
}

// shareControllers lets the children of a unified cgroup use what controllers
// it has. One that cannot be shared (the cgroup holds processes) is left out:
// containers then run without that limit.
func shareControllers(dir string) {
	have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for controller := range strings.FieldsSeq(string(have)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// enter puts a process into the cgroup lab/host.
func (c cgroup) enter(pid int, lab, host string) error {
	return os.WriteFile(c.path(lab, host, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// freeze stops or thaws every process of lab/host, whatever cgroup below it
// they are in. It reports whether this hierarchy has a freezer.
func (c cgroup) freeze(lab, host string, stop bool) (bool, error) {
	file, value := "freezer.state", "THAWED"
	switch {
	case c.Kind == "cgroup" && stop:
		value = "FROZEN"
	case c.Kind == "cgroup2":
		file, value = "cgroup.freeze", "0"
		if stop {
			value = "1"
		}
	}
	err := os.WriteFile(c.path(lab, host, file), []byte(value), 0o644)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil // no such file can be made in a cgroup that lacks it
	}
	return true, err
}

// frozen reports whether every process of lab/host stands still, outside the kernel: one
// that freeze stops ends the call it is in first. On a hybrid machine one hierarchy says
// so: who is stopped by it never comes to stop for another.
func (c cgroup) frozen(lab, host string) (bool, error) {
	file, want := "freezer.state", "FROZEN"
	if c.Kind == "cgroup2" {
		file, want = "cgroup.events", "frozen 1"
	}
	text, err := os.ReadFile(c.path(lab, host, file))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it has no freezer
	}
	return strings.Contains(string(text), want), err
}

// remove kills what still runs in the cgroup and below it, and removes all.
func (c cgroup) remove(name ...string) error {
	root := c.path(name...)
	var err error
	for range 200 {
		dirs := below(root)
		if len(dirs) == 0 {
			return nil
		}
		err = nil
		for _, dir := range slices.Backward(dirs) {
			killAll(dir)
			if e := syscall.Rmdir(dir); e != nil && !errors.Is(e, syscall.ENOENT) {
				err = fmt.Errorf("remove cgroup %s: %w", dir, e)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // the dead leave a cgroup a moment after they die
	}
	return err
}

// below lists a cgroup and its descendants, parents first.
func below(root string) (dirs []string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

func killAll(dir string) {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for field := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
