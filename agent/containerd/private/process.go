package private

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/internal/durable"
)

// errEnded says that containerd's process is no more.
var errEnded = errors.New("containerd's process has ended")

// process is a running containerd, our child or the child of a daemon that is
// no more.
type process struct {
	pid   int
	fd    int       // names the process even when its pid is used again
	child *exec.Cmd // nil if it was adopted
}

// open takes hold of a process.
func open(pid int, child *exec.Cmd) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("containerd's process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: fd, child: child}, nil
}

func (p *process) release() { _ = unix.Close(p.fd) }

// ended reports whether the process has ended, waiting for that at most d.
func (p *process) ended(d time.Duration) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(d.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false, err
		}
		p.reap()
		return true, nil
	}
}

// reap takes note of a child's end, so that it does not stay a zombie. An
// adopted process may be a child too: of an earlier Run of this same process.
func (p *process) reap() {
	if p.child != nil {
		_ = p.child.Wait() // how it ended is in its output
		return
	}
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
}

// wait returns when the process has ended or ctx has.
func (p *process) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		done, err := p.ended(200 * time.Millisecond)
		if err != nil {
			return err
		}
		if done {
			return errEnded
		}
	}
	return ctx.Err()
}

func (p *process) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// start starts containerd in a session of its own, with its output in a file,
// so that nothing of it depends on this process.
func (s *Supervisor) start(ctx context.Context) (*process, error) {
	major, err := s.tools.major(ctx)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.cfg.RunDir, "containerd.toml")
	if err := os.WriteFile(config, []byte(s.config(major)), 0o600); err != nil {
		return nil, err
	}
	output, err := s.openOutput()
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(s.tools.containerd, "--config", config)
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ(), s.tools.path)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.tools.containerd, err)
	}
	p, err := open(cmd.Process.Pid, cmd)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := s.note(p.pid); err != nil {
		return nil, errors.Join(err, p.signal(syscall.SIGKILL), cmd.Wait())
	}
	return p, nil
}

// note writes the pid file, whole.
func (s *Supervisor) note(pid int) error {
	dir, err := os.OpenRoot(s.cfg.RunDir)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // the file is closed and synced
	return durable.WriteFile(dir, filepath.Base(s.pidFile()), []byte(strconv.Itoa(pid)+"\n"))
}

func (s *Supervisor) pidFile() string    { return filepath.Join(s.cfg.RunDir, "containerd.pid") }
func (s *Supervisor) outputFile() string { return filepath.Join(s.cfg.StateDir, "containerd.log") }

// openOutput opens the file of containerd's output. What is longer than 8 MiB
// is put aside, so that two such files are the most there is after a start.
func (s *Supervisor) openOutput() (*os.File, error) {
	name := s.outputFile()
	if info, err := os.Stat(name); err == nil && info.Size() > 8<<20 {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// environment returns env for containerd: with our search path, without what
// systemd told us alone, and without secrets meant for ctl.
func environment(env []string, path string) []string {
	out := []string{"PATH=" + path}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "PATH", name == "NOTIFY_SOCKET", name == "WATCHDOG_PID", name == "WATCHDOG_USEC",
			strings.HasPrefix(name, "LISTEN_"), strings.HasPrefix(name, "SKEP_"):
		default:
			out = append(out, kv)
		}
	}
	return out
}

// adopt returns the containerd that serves the socket or is about to; nil if
// there is none. One that is there and does not answer is killed.
func (s *Supervisor) adopt(ctx context.Context) (*process, error) {
	pid := s.listener()
	if pid == 0 {
		pid = s.noted()
	}
	if pid == 0 {
		return nil, nil
	}
	p, err := open(pid, nil)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = s.answers(ctx, p)
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, errEnded):
		p.release()
		return nil, nil
	case ctx.Err() != nil:
		p.release()
		return nil, ctx.Err()
	}
	defer p.release()
	return nil, errors.Join(err, p.signal(syscall.SIGKILL), p.wait(ctx))
}

// listener returns the process that listens at the socket; 0 if none does.
func (s *Supervisor) listener() int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.Address()}); err != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}

// noted returns the process of the pid file, if that is a containerd of this
// configuration; else 0.
func (s *Supervisor) noted() int {
	data, err := os.ReadFile(s.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte(filepath.Join(s.cfg.RunDir, "containerd.toml"))) {
		return 0 // the number belongs to another process by now
	}
	return pid
}
