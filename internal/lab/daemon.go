package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Daemon starts "ctl daemon" on the host with further flags, its words
// appended to DaemonLog. It returns when the process runs, not when it serves.
func (h *Host) Daemon(ctx context.Context, flags ...string) error {
	if h.DaemonRuns() {
		return fmt.Errorf("lab: the daemon of %s runs already", h.name)
	}
	out, err := os.OpenFile(h.DaemonLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("lab: daemon of %s: %w", h.name, err)
	}
	defer out.Close()
	p, err := h.Spawn(ctx, out, append([]string{BinDir + "/ctl", "daemon"}, flags...)...)
	if err != nil {
		return err
	}
	h.daemon = p
	return nil
}

// DaemonLog is the file of everything the host's daemons ever said.
func (h *Host) DaemonLog() string { return filepath.Join(h.dir, "log/daemon.log") }

// DaemonRuns tells whether the last daemon started has not ended.
func (h *Host) DaemonRuns() bool {
	if h.daemon == nil || h.daemon.m != h.machine {
		return false
	}
	select {
	case <-h.daemon.done:
		return false
	default:
		return true
	}
}

// KillDaemon ends the daemon, and nothing else, with SIGKILL.
func (h *Host) KillDaemon(ctx context.Context) error {
	return h.endDaemon(ctx, syscall.SIGKILL)
}

// StopDaemon asks the daemon to stop, as a service manager would.
func (h *Host) StopDaemon(ctx context.Context) error {
	return h.endDaemon(ctx, syscall.SIGTERM)
}

func (h *Host) endDaemon(ctx context.Context, s syscall.Signal) error {
	if !h.DaemonRuns() {
		return fmt.Errorf("lab: the daemon of %s does not run", h.name)
	}
	if err := h.daemon.Signal(ctx, s); err != nil {
		return err
	}
	_, err := h.daemon.Wait(ctx)
	return err
}

// Pids lists the host's processes of a name, by the host's own numbers.
func (h *Host) Pids(ctx context.Context, name string) ([]int, error) {
	r, err := h.Exec(ctx, "busybox", "pidof", name)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(r.Stdout) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("lab: pids of %s on %s: %w", name, h.name, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// KillAll ends every process of a name on the host with SIGKILL.
func (h *Host) KillAll(ctx context.Context, name string) error {
	pids, err := h.Pids(ctx, name)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("lab: no process %s on %s", name, h.name)
	}
	var all []error
	for _, pid := range pids {
		_, err := h.machine.call(ctx, request{Op: opSignal, Pid: pid, Signal: int(syscall.SIGKILL)}, nil)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// LogTail returns the end of what the host's daemons said.
func (h *Host) LogTail(bytes int64) string {
	f, err := os.Open(h.DaemonLog())
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > bytes {
		_, _ = f.Seek(-bytes, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	return string(data)
}
