package private_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/agent/containerd/containerdtest"
	"github.com/skep-project/skep/agent/containerd/private"
)

// daemonEnv makes this test binary a daemon that supervises the containerd of
// the directory it names.
const daemonEnv = "SKEP_TEST_DAEMON"

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonEnv); dir != "" {
		daemon(dir)
	}
	os.Exit(m.Run())
}

func daemon(dir string) {
	s, err := private.New(config(dir, os.Getenv("BIN")))
	if err == nil {
		go func() {
			<-s.Ready()
			fmt.Println("ready")
		}()
		err = s.Run(context.Background())
	}
	fmt.Println(err)
	os.Exit(1)
}

func config(dir, bin string) private.Config {
	return private.Config{StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		BinDir: bin, HostsDir: filepath.Join(dir, "certs.d"), Log: slog.New(slog.DiscardHandler)}
}

// startDaemon starts a daemon and returns when it is ready.
func startDaemon(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), daemonEnv+"="+dir, "BIN="+containerdtest.Binaries(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line := make([]byte, 512)
	n, _ := out.Read(line)
	if string(line[:n]) != "ready\n" {
		t.Fatalf("the daemon says %q, want ready", line[:n])
	}
	return cmd
}

func TestContainerdOutlivesAKilledDaemonAndIsAdopted(t *testing.T) {
	h := containerdtest.Start(t)
	h.Halt()
	stop(t, h.Supervisor)

	first := startDaemon(t, h.Dir)
	pid := h.PID(t)
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("containerd's session is %d, %v; want its own, %d", session, err, pid)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || strings.Count(string(cmdline), "\x00") != 3 {
		t.Errorf("command line %q, %v; want the program, --config and a file", cmdline, err)
	}
	info, err := os.Stat(h.Supervisor.Address())
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("socket mode %v, %v; want nothing for others", info.Mode(), err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()

	startDaemon(t, h.Dir)
	if again := h.PID(t); again != pid {
		t.Errorf("the second daemon has containerd %d, want the first's, %d", again, pid)
	}
}

func stop(t *testing.T, s *private.Supervisor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestContainerdLivesInItsOwnCgroup(t *testing.T) {
	h := containerdtest.Start(t)
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", h.PID(t)))
	if want := h.CgroupParent + "/containerd\n"; err != nil || !strings.Contains(string(groups), want) {
		t.Errorf("cgroups %q, %v; want %q among them", groups, err, want)
	}
}

func TestOneDaemonSupervisesADirectory(t *testing.T) {
	h := containerdtest.Start(t)
	second, err := private.New(config(h.Dir, containerdtest.Binaries(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another daemon supervises it") {
		t.Errorf("run: %v, want it refused because another daemon supervises it", err)
	}
}

func TestAContainerdWithoutItsPidFileIsAdopted(t *testing.T) {
	h := containerdtest.Start(t)
	pid := h.PID(t)
	h.Halt()
	file := filepath.Join(h.Dir, "run", "containerd.pid")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	h.Supervise(t)
	if again := h.PID(t); again != pid {
		t.Errorf("containerd %d, want the first, %d", again, pid)
	}
}

func TestAPidThatBelongsToAnotherIsLeftAlone(t *testing.T) {
	h := containerdtest.Start(t)
	h.Halt()
	stop(t, h.Supervisor)
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	file := filepath.Join(h.Dir, "run", "containerd.pid")
	if err := os.WriteFile(file, fmt.Appendln(nil, other.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Supervise(t)
	if h.PID(t) == other.Process.Pid {
		t.Error("the other process was taken for containerd")
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process: %v, want it alive", err)
	}
}

func TestStopEndsContainerdAndMayBeRepeated(t *testing.T) {
	h := containerdtest.Start(t)
	pid := h.PID(t)
	h.Halt()
	stop(t, h.Supervisor)
	stop(t, h.Supervisor)
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if len(cmdline) > 0 {
		t.Errorf("containerd %d still runs", pid)
	}
}

func TestMissingBinariesAreNamedWithTheWayOut(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := private.New(config(t.TempDir(), t.TempDir()))
	if err == nil {
		t.Fatal("no error without binaries")
	}
	for _, want := range []string{"containerd: neither in", "containerd-shim-runc-v2: neither", "runc: neither", "make deps", "--containerd"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestFaultsOfTheConfigurationAreToldTogether(t *testing.T) {
	_, err := private.New(private.Config{StateDir: "here", RunDir: "/" + strings.Repeat("long", 30), BinDir: "/bin"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`state directory "here"`, "too long for a socket's name", "log: missing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}
