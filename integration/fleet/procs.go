package fleet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Process is the first process of a container that runs, as it is seen from
// outside the hosts: no daemon was asked.
type Process struct {
	Service string `json:"service"`
	Slot    string `json:"slot"` // or the node's id, of a global service
	Task    string `json:"task"`
	Host    string `json:"host"`
	Pid     int    `json:"pid"` // on this machine
}

const markName = "SKEP_FLEET"

// Mark is the flag of "ctl service create" by which the containers of a service
// are seen from outside.
func (f *Fleet) Mark() string {
	return "--env '" + markName + "=" + f.Lab.Name() + "|{{.Service.Name}}|{{.Task.Slot}}|{{.Task.ID}}|{{.Node.Hostname}}'"
}

// Create makes a service of marked containers, with flags of "ctl service create",
// and waits until they run.
func (f *Fleet) Create(ctx context.Context, name, flags string) error {
	_, err := f.Members[0].Must(ctx, fmt.Sprintf("ctl service create --name %s --stop-grace-period 1s %s %s alpine sleep 1000000",
		name, f.Mark(), flags))
	return err
}

// Processes lists the marked containers of this fleet that live. Those of a
// paused host do.
func (f *Fleet) Processes() []Process {
	var all []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !isFirst(dir) {
			continue // it has ended, or is no container's first
		}
		if p, ok := marked(environ, f.Lab.Name()); ok {
			p.Pid = pid
			all = append(all, p)
		}
	}
	return all
}

// marked finds the mark of a lab in a process's environment.
func marked(environ []byte, labName string) (Process, bool) {
	for field := range bytes.SplitSeq(environ, []byte{0}) {
		rest, ok := strings.CutPrefix(string(field), markName+"="+labName+"|")
		if !ok {
			continue
		}
		if p := strings.Split(rest, "|"); len(p) == 4 {
			return Process{Service: p[0], Slot: p[1], Task: p[2], Host: p[3]}, true
		}
	}
	return Process{}, false
}

// isFirst reports whether the process of a /proc directory is number 1 of its
// namespace: runc's own, on the way there, have the environment already.
func isFirst(dir string) bool {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(rest)
			return len(fields) > 2 && fields[len(fields)-1] == "1"
		}
	}
	return false
}
