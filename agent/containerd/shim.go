package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"

	"github.com/skep-project/skep/agent/exec"
)

// A shim is the process beside a container that knows how it ended even while
// containerd is away. It is asked only then.
type shim struct {
	pid     uint32 // of the container's process the address belongs to
	address string // path of the shim's socket; empty if not known
	version int    // of its API
	asked   chan *exec.Exit
	client  *ttrpc.Client
}

// find remembers where the shim of the container with first process pid
// listens. It must be called while the process lives: the shim is its parent,
// and works in the directory that holds the address, wherever containerd keeps
// its state.
func (s *shim) find(pid uint32) {
	if pid == 0 || pid == s.pid {
		return
	}
	s.close()
	*s = shim{}
	parent, err := parentOf(pid)
	if err != nil || parent <= 1 {
		return
	}
	address, version, err := shimAddress(fmt.Sprintf("/proc/%d/cwd", parent))
	if err != nil {
		return // a shim of another kind: then only containerd can tell
	}
	*s = shim{pid: pid, address: address, version: version}
}

// wait returns how the container ended if its shim tells within ctx, else nil.
// A question once asked stays asked: a later call hears its answer.
func (s *shim) wait(ctx context.Context, container string) *exec.Exit {
	if s.address == "" {
		return nil
	}
	if s.asked == nil && !s.ask(container) {
		return nil
	}
	select {
	case end := <-s.asked:
		s.asked = nil
		return end
	case <-ctx.Done():
		return nil
	}
}

// ask begins to wait at the shim. The goroutine ends with the connection.
func (s *shim) ask(container string) bool {
	if s.client != nil {
		_ = s.client.Close()
	}
	conn, err := net.DialTimeout("unix", s.address, retry)
	if err != nil {
		return false
	}
	s.client = ttrpc.NewClient(conn)
	asked := make(chan *exec.Exit, 1) // one answer, which may not be fetched any more
	s.asked = asked
	cl, version := s.client, s.version
	go func() { asked <- askShim(cl, version, container) }()
	return true
}

func (s *shim) close() {
	if s.client == nil {
		return
	}
	_ = s.client.Close()
	if s.asked != nil {
		<-s.asked // the goroutine ends because its connection has
	}
	s.client, s.asked = nil, nil
}

// askShim waits for the container's end; nil if the shim cannot tell.
func askShim(cl *ttrpc.Client, version int, container string) *exec.Exit {
	ctx := context.Background() // bounded by the connection's life
	if version >= 3 {
		resp, err := taskv3.NewTTRPCTaskClient(cl).Wait(ctx, &taskv3.WaitRequest{ID: container})
		if err != nil {
			return nil
		}
		return shimExit(resp.GetExitStatus(), resp.GetExitedAt().AsTime())
	}
	resp, err := taskv2.NewTTRPCTaskClient(cl).Wait(ctx, &taskv2.WaitRequest{ID: container})
	if err != nil {
		return nil
	}
	return shimExit(resp.GetExitStatus(), resp.GetExitedAt().AsTime())
}

func shimExit(code uint32, at time.Time) *exec.Exit {
	end := exec.Exit{Code: int32(code)}
	if at.After(time.Unix(0, 0)) {
		end.At = at
	}
	return &end
}

// shimAddress reads the shim's socket from its working directory: since
// containerd 1.7 in bootstrap.json, before in a file of one line.
func shimAddress(dir string) (path string, version int, err error) {
	boot := struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{Version: 2, Protocol: "ttrpc"}
	data, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err == nil {
		err = json.Unmarshal(data, &boot)
	} else if data, err = os.ReadFile(filepath.Join(dir, "address")); err == nil {
		boot.Address = strings.TrimSpace(string(data))
	}
	if err != nil {
		return "", 0, err
	}
	path, isUnix := strings.CutPrefix(boot.Address, "unix://")
	if !isUnix || boot.Protocol != "ttrpc" {
		return "", 0, fmt.Errorf("shim address %q over %q: want ttrpc over a unix socket", boot.Address, boot.Protocol)
	}
	return path, boot.Version, nil
}

// parentOf returns the parent of a process.
func parentOf(pid uint32) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	parent, err := parentIn(stat)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return parent, nil
}

// parentIn reads it in what the kernel says of a process.
func parentIn(stat []byte) (parent int, err error) {
	// The name, in parentheses, may hold anything; what follows is regular.
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	var state string
	_, err = fmt.Sscan(string(after), &state, &parent)
	return parent, err
}
