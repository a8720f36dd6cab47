// Package script tells ctl's stories: what is typed and what is answered.
//
// It owns the stories under testdata and the way they are run. Those under words
// speak to a swarm that is not there (cli/clitest); those under daemon start real
// daemons of their own, without a container runtime, so that they run anywhere.
package script

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skep-project/skep/cli"
	"github.com/skep-project/skep/cli/clitest"
)

const (
	readyIn   = 30 * time.Second // a daemon answers
	storiesIn = 3 * time.Minute  // all stories are told
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ctl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Main(ctx, os.Args, cli.ProcessStreams())
		stop()
		os.Exit(code)
	}})
}

// TestWords runs each story against a fresh swarm of three managers and a worker.
func TestWords(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/words",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			socket, stop, err := clitest.Three().AddPing().Listen()
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Setenv("CTL_HOST", "unix://"+socket)
			return nil
		},
	})
}

// TestDaemon runs each story with daemons of its own. Stories find a free address
// in $ADDR, $ADDR2 and $ADDR3, free ports of it in $PORT, $PORT2 and $PORT3, and end every
// daemon they start (testscript kills what is left).
func TestDaemon(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts daemons")
	}
	theirs := cfsslPrograms(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/daemon",
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(storiesIn),
		Setup: func(env *testscript.Env) error {
			run, err := os.MkdirTemp("", "skep") // short: a socket's path has 108 bytes
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(run) }) // a temporary directory
			env.Setenv("RUN", run)
			env.Setenv("GODEBUG", os.Getenv("GODEBUG")) // fips140=on: all of them in FIPS 140-3 mode
			env.Setenv("NORUNTIME", filepath.Join(run, "no-containerd.sock"))
			for _, nth := range []string{"", "2", "3"} {
				address, err := freeAddress()
				if err != nil {
					return err
				}
				env.Setenv("ADDR"+nth, address)
				if address, err = freeAddress(); err != nil {
					return err
				}
				_, port, _ := net.SplitHostPort(address)
				env.Setenv("PORT"+nth, port)
			}
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": ready, "small": small, "word": word, "until": until, "page": page, "documented": documented,
			"cut": cutShort, "absent": absent, "showcerts": showcerts,
			"guide": guide, "cfssl": theirs.cfssl, "listening": listening,
		},
	})
}

func condition(name string) (bool, error) {
	if name == "tmpfs" {
		return os.Geteuid() == 0 && exec.Command("mount", "--version").Run() == nil && canMount(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// canMount reports whether this process may mount.
func canMount() bool {
	dir, err := os.MkdirTemp("", "skep")
	if err != nil {
		return false
	}
	defer os.Remove(dir)
	if syscall.Mount("none", dir, "tmpfs", 0, "size=64k") != nil {
		return false
	}
	return syscall.Unmount(dir, syscall.MNT_DETACH) == nil
}

// freeAddress returns an address of the loopback that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// ready DIR: waits until a daemon answers at DIR/ctl.sock.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	socket := ts.MkAbs(filepath.Join(args[0], "ctl.sock"))
	tryFor(ts, "a daemon at "+socket, func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// listening ADDRESS: waits until somebody does.
func listening(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listening ADDRESS")
	}
	tryFor(ts, "a server at "+args[0], func() error {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// small DIR SIZE: mounts a file system of SIZE at DIR, for a disk that is full.
func small(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: small DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("none", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // goes with the machine otherwise
}

// cut FILE COPY: copies all of FILE but its last bytes.
func cutShort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE COPY")
	}
	text := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text[:len(text)-20]), 0o600))
}

// word NAME FILE N: sets NAME to the Nth word (from 1) of FILE.
func word(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: word NAME FILE N")
	}
	var n int
	if _, err := fmt.Sscan(args[2], &n); err != nil || n < 1 {
		ts.Fatalf("word: %q is no place", args[2])
	}
	words := strings.Fields(ts.ReadFile(args[1]))
	if len(words) < n {
		ts.Fatalf("word: %s has %d words", args[1], len(words))
	}
	ts.Setenv(args[0], words[n-1])
}

// until TEXT COMMAND...: runs a command until its output holds TEXT; stdout and
// stderr look at the last run afterwards.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT COMMAND...")
	}
	tryFor(ts, args[0]+" of "+strings.Join(args[1:], " "), func() error {
		err := ts.Exec(args[1], args[2:]...)
		if out := ts.ReadFile("stdout") + ts.ReadFile("stderr"); !strings.Contains(out, args[0]) {
			return errors.Join(err, errors.New(out))
		}
		return nil
	})
}

func tryFor(ts *testscript.TestScript, what string, try func() error) {
	var err error
	for end := time.Now().Add(readyIn); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	ts.Fatalf("waited %v for %s: %v", readyIn, what, err)
}

// showcerts ADDRESS FILE: writes what a manager shows in its handshake, in PEM.
func showcerts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: showcerts ADDRESS FILE")
	}
	conn, err := tls.Dial("tcp", args[0], &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // openssl verifies it
	ts.Check(err)
	defer conn.Close()
	var b bytes.Buffer
	for _, c := range conn.ConnectionState().PeerCertificates {
		ts.Check(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o600))
}
