//go:build lab

package lab_test

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

	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	if len(os.Args) == 2 && os.Args[1] == clockWord {
		tellTheTime()
	}
	os.Exit(m.Run())
}

// open makes a lab with the named hosts running, and closes it with the test.
func open(t *testing.T, names ...string) (*lab.Lab, []*lab.Host) {
	t.Helper()
	l, err := lab.New(t.Context(), lab.Config{Bin: "/bin", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		leftovers(t, l.Name())
	})
	var hosts []*lab.Host
	for _, name := range names {
		h, err := l.Host(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	return l, hosts
}

// leftovers fails the test if anything on the machine still carries the name.
func leftovers(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("ip", "-d", "link").CombinedOutput(); err != nil || strings.Contains(string(out), name) {
		t.Errorf("links are left: %v\n%s", err, out)
	}
	if out, _ := os.ReadFile("/proc/mounts"); strings.Contains(string(out), name) {
		t.Errorf("mounts are left:\n%s", out)
	}
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name); len(dirs) > 0 {
		t.Errorf("cgroups are left: %q", dirs)
	}
	inits, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range inits {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), name) && !dead(filepath.Dir(f)) {
			t.Errorf("a process is left: %s", f)
		}
	}
}

// dead tells whether a process has ended and only waits to be reaped, which is
// its parent's affair.
func dead(proc string) bool {
	data, err := os.ReadFile(proc + "/stat")
	_, rest, _ := strings.Cut(string(data), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// run runs a line of shell and gives back its output and code.
func run(t *testing.T, h *lab.Host, line string) (string, int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, err := h.Shell(ctx, line)
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout + r.Stderr, r.Code
}

func want(t *testing.T, h *lab.Host, line, text string) {
	t.Helper()
	if out, code := run(t, h, line); code != 0 || !strings.Contains(out, text) {
		t.Errorf("%s: %s: code %d, output %q; want 0 and %q", h.Name(), line, code, out, text)
	}
}

const onePing = "busybox ping -c 1 -W 1 "

func TestHostsAreSeparateMachines(t *testing.T) {
	_, h := open(t, "dev01", "dev02")
	want(t, h[0], "hostname; cat /etc/hostname", "dev01\ndev01")
	want(t, h[0], onePing+"dev02", "1 packets received")
	want(t, h[1], onePing+"dev01", "1 packets received")
	own := fmt.Sprintf("of-dev01-%d", os.Getpid()) // nobody else on the machine has a file of that name
	files := []string{"/tmp/" + own, "/run/" + own, "/etc/" + own}
	want(t, h[0], "touch "+strings.Join(files, " ")+" && busybox ps | grep -c 'lab-init$'", "1")
	for _, f := range files {
		if out, code := run(t, h[1], "test ! -e "+f); code != 0 {
			t.Errorf("%s of dev01 is seen on dev02: %s", f, out)
		}
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s of dev01 is seen on the machine", f)
		}
	}
	want(t, h[0], "cat /etc/containerd/certs.d/docker.io/hosts.toml", `capabilities = ["pull", "resolve"]`)
	want(t, h[0], "mkdir -p /sys/fs/cgroup/pids/inner && cat /proc/self/cgroup", "pids:/\n")
}

func TestExitCodesAndSignalsAreTold(t *testing.T) {
	_, h := open(t, "dev01")
	for line, code := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "true": 0} {
		if out, got := run(t, h[0], line); got != code {
			t.Errorf("%q ended with %d (%s), want %d", line, got, out, code)
		}
	}
	if _, err := h[0].Exec(t.Context(), "no-such-command"); err == nil {
		t.Error("a command that does not exist was run")
	}
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	if r, err := h[0].Shell(ctx, "echo begun; sleep 1000"); err == nil || r.Stdout != "begun\n" {
		t.Errorf("a command past its deadline: %+v, %v; want its output so far and an error", r, err)
	}
}

func TestAKilledHostIsDarkAndForgetsAllButItsDisk(t *testing.T) {
	_, h := open(t, "dev01", "dev02")
	boot, _ := run(t, h[0], "cat $SKEP_BOOT_ID_FILE; touch /tmp/gone /var/lib/skep/kept")
	p, err := h[0].Spawn(t.Context(), os.Stderr, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := h[0].Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Code() != 137 {
		t.Errorf("a process of a killed host ended with %d, want 137", p.Code())
	}
	if out, code := run(t, h[1], onePing+"dev01"); code == 0 {
		t.Errorf("a dark host answers: %s", out)
	}
	if _, err := h[0].Exec(t.Context(), "true"); err == nil {
		t.Error("a command ran on a dark host")
	}
	if err := h[0].Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, _ := run(t, h[0], "cat $SKEP_BOOT_ID_FILE")
	if again == boot || len(again) != 37 {
		t.Errorf("boot id %q after %q; want another of 36 letters", again, boot)
	}
	want(t, h[0], "test -e /var/lib/skep/kept && test ! -e /tmp/gone && echo so", "so")
	want(t, h[1], "busybox ping -c 1 -W 5 dev01", "1 packets received") // dev02 may ask once a second where dev01 is
}

func TestPartitionsAndLossAreMadeAndHealed(t *testing.T) {
	l, h := open(t, "dev01", "dev02", "dev03")
	cut := func(way lab.Direction) {
		t.Helper()
		if err := l.Partition(t.Context(), h[0], h[1], way); err != nil {
			t.Fatal(err)
		}
	}
	cut(lab.Both)
	if out, code := run(t, h[0], onePing+"dev02"); code == 0 {
		t.Errorf("a ping crossed the partition: %s", out)
	}
	want(t, h[0], onePing+"dev03", "1 packets received")
	want(t, h[0], onePing+l.Gateway().String(), "1 packets received")
	if err := l.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, h[0], onePing+"dev02", "1 packets received")

	cut(lab.ToB)
	if out, code := run(t, h[1], "busybox nc -l -p 99 >/tmp/got & sleep 0.2; "+onePing+"dev01; kill %1"); strings.Contains(out, "1 packets received") {
		t.Errorf("a one-way cut let an echo back in: %d %s", code, out)
	}
	if err := l.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Loss(t.Context(), h[0], h[1], lab.ToB, 50); err != nil {
		t.Fatal(err)
	}
	out, _ := run(t, h[0], "busybox ping -c 60 -i 0.02 -W 1 dev02")
	if strings.Contains(out, " 0% packet loss") || strings.Contains(out, "100% packet loss") {
		t.Errorf("half of the packets should be lost: %s", out)
	}
}

func TestAPausedHostGoesOnWhereItStood(t *testing.T) {
	_, h := open(t, "dev01", "dev02")
	p, err := h[0].Spawn(t.Context(), os.Stderr, "sh", "-c", "busybox nc -l -p 99 -e true")
	if err != nil {
		t.Fatal(err)
	}
	if err := h[0].Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	// Exec cannot end either while the init is frozen, so the bare process is asked.
	if _, err := p.Wait(ctx); err == nil {
		t.Error("a process of a paused host ended")
	}
	if err := h[0].Resume(); err != nil {
		t.Fatal(err)
	}
	want(t, h[0], "echo awake", "awake")
	if err := h[0].Pause(); err != nil {
		t.Fatal(err)
	}
	if err := h[0].Kill(); err != nil { // a plug can be pulled on a paused host
		t.Fatal(err)
	}
}

// TestACrashedLabIsSweptByTheNext starts this test again as a lab's owner,
// kills it, and opens another lab in the same directory.
func TestACrashedLabIsSweptByTheNext(t *testing.T) {
	dir := os.Getenv("SKEP_LAB_TEST_CRASH")
	if dir != "" {
		crash(t, dir)
	}
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "SKEP_LAB_TEST_CRASH="+dir)
	out, _ := cmd.CombinedOutput()
	name, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "opened ")
	if !ok {
		t.Fatalf("the lab that should crash did not open: %s", out)
	}
	l, err := lab.New(t.Context(), lab.Config{Bin: "/bin", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	leftovers(t, name)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("the labs' directory still holds %v", left)
	}
}

func crash(t *testing.T, dir string) {
	l, err := lab.New(t.Context(), lab.Config{Bin: "/bin", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Host("dev01")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Pause(); err != nil { // the worst case: frozen processes hear no hang-up
		t.Fatal(err)
	}
	_, _ = os.Stdout.WriteString("opened " + l.Name() + "\n")
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestADiskIsFilledHeldUpAndKept(t *testing.T) {
	l, err := lab.New(t.Context(), lab.Config{Bin: "/bin", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		leftovers(t, l.Name())
	}()
	h, err := l.Host("dev01")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Disk(64 << 20))
	must(h.Boot(t.Context()))
	const write = "dd if=/dev/zero of=/var/lib/skep/x bs=1M count=8 conv=fsync 2>&1"
	want(t, h, write, "8+0 records out")
	must(h.FillDisk(1 << 20))
	want(t, h, "rm /var/lib/skep/x; dd if=/dev/zero of=/var/lib/skep/x bs=1M count=32 2>&1 || true", "No space left")
	must(h.EmptyDisk())
	want(t, h, write, "8+0 records out")

	must(h.StallDisk())
	p, err := h.Spawn(t.Context(), os.Stderr, "sh", "-c", write+" >/dev/null")
	must(err)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := p.Wait(ctx); err == nil {
		t.Error("a write to a disk that is held up ended")
	}
	must(h.ReleaseDisk())
	if code, err := p.Wait(t.Context()); err != nil || code != 0 {
		t.Errorf("the write ended with %d, %v when the disk went on", code, err)
	}
	must(h.StallDisk())
	must(h.Kill()) // a plug can be pulled on it
	must(h.Boot(t.Context()))
	want(t, h, "test -s /var/lib/skep/x && echo so", "so")
	if _, err := os.Stat(h.Inside("/var/lib/skep/x")); err != nil {
		t.Errorf("from outside: %v", err)
	}
	must(h.BreakDisk())
	want(t, h, "touch /var/lib/skep/y 2>&1 || true", "Input/output error")
	if err := h.RepairDisk(); err == nil {
		t.Error("a disk was repaired under power")
	}
	must(h.Kill())
	must(h.RepairDisk())
	must(h.Boot(t.Context()))
	want(t, h, "test -s /var/lib/skep/x && test ! -e /var/lib/skep/y && touch /var/lib/skep/y && echo so", "so")
}
