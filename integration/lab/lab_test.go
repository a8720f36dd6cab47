//go:build lab

package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/internal/lab"
)

// asMain makes the test's program be the lab's.
const asMain = "SKEP_LAB_AS_MAIN"

func TestMain(m *testing.M) {
	lab.Init()
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A desk is where a person types lab commands.
type desk struct {
	*testing.T
	at string
}

func newDesk(t *testing.T) desk {
	at, err := os.MkdirTemp("", "lab") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := desk{t, at}
	t.Cleanup(func() {
		d.lab("down") // refused if the test has done it
		_ = os.RemoveAll(at)
	})
	return d
}

// lab types a command and returns what it said and its exit code.
func (d desk) lab(args ...string) (string, int) {
	d.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-at", d.at}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		d.Fatal(err)
	}
	d.Logf("lab %s   [%d]\n%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String())
	return out.String(), cmd.ProcessState.ExitCode()
}

// says types a command that has to end with the code and say the words.
func (d desk) says(code int, words string, args ...string) {
	d.Helper()
	out, got := d.lab(args...)
	if got != code || !strings.Contains(out, words) {
		d.Fatalf("lab %s: %d %q, want %d and %q", strings.Join(args, " "), got, out, code, words)
	}
}

func bin(t *testing.T) string {
	ctl := os.Getenv("SKEP_BIN")
	if ctl == "" {
		ctl = "../../bin/ctl"
	}
	dir, err := filepath.Abs(filepath.Dir(ctl))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAPersonPlaysWithHosts(t *testing.T) {
	d := newDesk(t)
	d.says(0, "active, manager", "up", "-hosts", "2", "-swarm", "1", "-bin", bin(t))
	d.says(0, "active, worker", "ls")
	d.says(1, "a lab is up already", "up", "-hosts", "1", "-bin", bin(t))

	d.says(0, "dev02\n", "sh", "dev02", "hostname")
	d.says(0, "Ready", "sh", "dev01", "ctl", "node", "ls")
	d.says(7, "", "sh", "dev01", "sh", "-c", "exit 7")
	d.says(0, `skep_raft_is_leader 1`, "sh", "dev01", "busybox", "wget", "-qO-", "http://dev01:9323/metrics")

	d.says(0, "dev02 is dark", "kill", "dev02")
	d.says(1, "dark already", "kill", "dev02")
	d.says(1, "lab start dev02", "sh", "dev02", "true")
	d.says(0, "off", "ls")
	d.says(0, "its daemon runs", "start", "dev02")
	d.says(1, "up already", "start", "dev02")

	d.says(0, "dev02 does not hear dev01", "partition", "dev01", "dev02", "to")
	d.says(0, "dev02 does not hear dev01", "ls")
	d.says(0, "stands still", "pause", "dev02")
	d.says(1, "lab resume dev02 first", "heal")
	d.says(0, "goes on", "resume", "dev02")
	d.says(0, "every host hears every other", "heal")
	if out, _ := d.lab("ls"); strings.Contains(out, "hear") {
		d.Errorf("a healed cut is still shown: %s", out)
	}
	d.says(0, "is killed", "daemon", "dev01", "kill")
	d.says(0, "stopped", "ls")
	d.says(0, "runs", "daemon", "dev01", "start")
	d.says(0, "daemon is ready", "log", "dev01")

	d.says(1, "there are dev01 to dev02", "kill", "dev03")
	d.says(1, "not one twice", "partition", "dev01", "dev01")
	d.says(1, "unknown command", "explode", "dev01")

	d.says(0, "nothing is left", "down")
	d.says(1, "no lab is up", "ls")
}

func TestAKeeperThatDiesTakesItsHostsAndDownRemovesTheRest(t *testing.T) {
	d := newDesk(t)
	d.says(0, "inactive", "up", "-hosts", "1", "-bin", bin(t))
	keeper := d.keeper()
	out, _ := exec.Command("pgrep", "-P", keeper).Output()
	inits := strings.Fields(string(out))
	if len(inits) != 1 {
		t.Fatalf("the keeper has children %q, want the host's init", inits)
	}
	if number, err := strconv.Atoi(keeper); err != nil || syscall.Kill(number, syscall.SIGKILL) != nil {
		t.Fatal("the keeper cannot be killed")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + inits[0]); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the host outlives its keeper")
		}
	}
	d.says(1, "no lab is up", "ls")
	d.says(0, "skep-lab-"+keeper+"-", "down")
	for _, left := range lab.Left("") {
		if strings.HasPrefix(left, "skep-lab-"+keeper+"-") {
			t.Errorf("%s is left", left)
		}
	}
	d.says(1, "no lab is up", "down")
}

// keeper is the process at the other end of the socket.
func (d desk) keeper() string {
	d.Helper()
	conn, err := net.Dial("unix", place(d.at).socket())
	if err != nil {
		d.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		d.Fatal(err)
	}
	var who *unix.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) { who, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || asked != nil {
		d.Fatal(err, asked)
	}
	return strconv.Itoa(int(who.Pid))
}
