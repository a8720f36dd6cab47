package adversary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/backup"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A host is one daemon.
type host struct {
	swarm            *swarm
	name, addr       string
	state, run, logs string
	cmd              *exec.Cmd
	cc               *grpc.ClientConn
}

// host starts a daemon that is in no swarm and returns when it answers.
func (s *swarm) host(name string) (*host, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	h := &host{swarm: s, name: name, addr: addr,
		state: filepath.Join(s.dir, name), run: filepath.Join(s.run, name), logs: filepath.Join(s.dir, name+".log")}
	log, err := os.Create(h.logs)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// No container runtime answers: what is assigned is kept, and waits.
	h.cmd = exec.Command("ctl", "daemon", "--state-dir", h.state, "--run-dir", h.run, "--hostname", name,
		"--containerd", filepath.Join(s.run, "no-containerd.sock"), "--log-level", "debug")
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if err := bear(h.cmd); err != nil {
		return nil, err
	}
	s.hosts = append(s.hosts, h)
	if h.cc, err = rpc.DialUnix(filepath.Join(h.run, "ctl.sock")); err != nil {
		return nil, err
	}
	return h, until("a daemon of "+name, func() error {
		_, err := h.local().Info(context.Background(), &localv1.InfoRequest{})
		return err
	})
}

// bear starts a process that ends with this one, however this one ends: the kernel
// looks at the thread that started it, so that thread is kept.
func bear(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := make(chan error, 1)
	nursery() <- func() { err <- cmd.Start() }
	return <-err
}

var nursery = sync.OnceValue(func() chan<- func() {
	births := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range births {
			f()
		}
	}()
	return births
})

// freeAddress returns an address of the loopback that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// until returns when try succeeds.
func until(what string, try func() error) error {
	var err error
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("waited %v for %s: %w", soon, what, err)
}

func (h *host) local() localv1.LocalClient       { return localv1.NewLocalClient(h.cc) }
func (h *host) control() controlv1.ControlClient { return controlv1.NewControlClient(h.cc) }
func (h *host) pid() int                         { return h.cmd.Process.Pid }

// ctl runs a command at the host and returns what it printed. Its error holds what it
// complained of.
func (h *host) ctl(args ...string) (string, error) {
	cmd := exec.Command("ctl", append([]string{"--run-dir", h.run}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("ctl %s on %s: %w: %s", strings.Join(args[:2], " "), h.name, err, complaint.String())
	}
	return out.String(), nil
}

// join joins by the standing token of a role, and waits until the node is what it is
// to be.
func (h *host) join(via *host, role modelv1.Role) error {
	token, err := via.control().GetJoinToken(context.Background(), &controlv1.GetJoinTokenRequest{Role: role})
	if err != nil {
		return err
	}
	if err := h.joinBy(token.GetToken(), via.addr); err != nil {
		return err
	}
	return until(h.name+" in the swarm", func() error {
		info, err := h.local().Info(context.Background(), &localv1.InfoRequest{})
		if err == nil && (info.GetRole() != role || info.GetState() != localv1.State_STATE_ACTIVE) {
			err = fmt.Errorf("it is %v, %v", info.GetRole(), info.GetState())
		}
		return err
	})
}

// joinBy joins with a token from a file.
func (h *host) joinBy(token string, at ...string) error {
	file := filepath.Join(h.swarm.dir, h.name+".token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	_, err := h.ctl(append([]string{"swarm", "join", "--timeout", "20s", "--token-file", file, "--advertise-addr", h.addr, "--listen-addr", h.addr}, at...)...)
	return err
}

// kill ends the process.
func (h *host) kill() {
	if h.cmd.ProcessState != nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGCONT) // one that was stopped
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait() // killed
	_ = h.cc.Close()
}

// state returns the whole state of the swarm, keys and all, as root on a manager has
// it.
func (h *host) stolen() (*modelv1.Cluster, []byte, error) {
	stream, err := h.local().Backup(context.Background(), &localv1.BackupRequest{})
	if err != nil {
		return nil, nil, err
	}
	var data bytes.Buffer
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		data.Write(m.GetData())
	}
	im, err := backup.Read(bytes.NewReader(data.Bytes()))
	if err != nil {
		return nil, nil, err
	}
	return im.Store.Snapshot().Cluster(), data.Bytes(), nil
}

// root is the root that signs.
func (h *host) root() (authority, error) {
	c, _, err := h.stolen()
	if err != nil {
		return authority{}, err
	}
	return authority{c.GetRoot().GetCertificates()[0], sealed.NewSecret(c.GetRoot().GetKey())}, nil
}

// copyKeys copies what keys lie on a host's disk and opens the copy with the unlock
// key, as a manager who knows it can.
func (h *host) copyKeys(t *testing.T) (*keystore.Store, *keystore.Node) {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(filepath.Join(h.state, "keys"))); err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	keys, err := keystore.Open(dir)
	if err == nil && keys.Locked() {
		var key sealed.Secret
		if key, err = sealed.ParseUnlockKey(h.swarm.unlock); err == nil {
			err = keys.Unlock(key)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	me, err := keys.Load()
	if err != nil {
		t.Fatal(err)
	}
	return keys, me
}
