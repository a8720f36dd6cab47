package adversary

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/cli"
	ctl "github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	soon      = 30 * time.Second // what is waited for has happened
	asWorker  = modelv1.Role_ROLE_WORKER
	asManager = modelv1.Role_ROLE_MANAGER
)

// TestMain makes this binary ctl as well, so that the daemons are processes of the
// code under test, and ends them when the tests have.
func TestMain(m *testing.M) {
	testscript.Main(staged{m}, map[string]func(){"ctl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Main(ctx, os.Args, cli.ProcessStreams())
		stop()
		os.Exit(code)
	}})
}

type staged struct{ m *testing.M }

// Run runs the tests and takes the stage down.
func (s staged) Run() int {
	code := s.m.Run()
	if err := theSwarm.end(); err != nil {
		fmt.Fprintln(os.Stderr, "the swarm does not end:", err)
		code = max(code, 1)
	}
	return code
}

// A swarm is what is attacked.
type swarm struct {
	dir, run string // of all its processes; run is short: a socket's path has 108 bytes
	hosts    []*host
	managers []*host
	worker   *host
	id       id.ID
	// unlock is the managers' unlock key, as it is typed.
	unlock sealed.Secret
	// root is the root that signs, and the one before it: whoever attacks has both
	// keys, as one who was a manager would.
	root, former authority
}

// An authority is a root and its key.
type authority struct {
	der []byte
	key sealed.Secret
}

// theSwarm is made by the first test that needs it.
var theSwarm swarm

var raised = sync.OnceValue(func() error { return theSwarm.raise() })

// attacked returns the swarm.
func attacked(t *testing.T) *swarm {
	t.Helper()
	if testing.Short() {
		t.Skip("starts daemons")
	}
	if err := raised(); err != nil {
		t.Fatalf("the swarm that is to be attacked: %v", err)
	}
	return &theSwarm
}

// raise makes three managers, locked, and a worker, and gives them a root whose key
// is known here.
func (s *swarm) raise() (err error) {
	if s.dir, err = os.MkdirTemp("", "skep-adversary"); err != nil {
		return err
	}
	if s.run, err = os.MkdirTemp("", "skep"); err != nil {
		return err
	}
	first, err := s.host("m1")
	if err != nil {
		return err
	}
	if _, err := first.ctl("swarm", "init", "--autolock", "--advertise-addr", first.addr, "--listen-addr", first.addr); err != nil {
		return err
	}
	key, err := first.ctl("swarm", "unlock-key", "-q")
	if err != nil {
		return err
	}
	s.unlock, s.managers = sealed.NewSecret([]byte(strings.TrimSpace(key))), []*host{first}
	for _, name := range []string{"m2", "m3"} {
		h, err := s.host(name)
		if err == nil {
			err = h.join(first, asManager)
		}
		if err != nil {
			return err
		}
		s.managers = append(s.managers, h)
	}
	if s.worker, err = s.host("w1"); err != nil {
		return err
	}
	if err := s.worker.join(first, asWorker); err != nil {
		return err
	}
	info, err := first.local().Info(context.Background(), &localv1.InfoRequest{})
	if err != nil {
		return err
	}
	if s.id, err = id.FromBytes(info.GetCluster()); err != nil {
		return err
	}
	if err := s.rotate(); err != nil {
		return err
	}
	return s.whole()
}

// whole returns when the swarm is as attacks find it, and leave it: the worker is
// ready, as every manager says.
func (s *swarm) whole() error {
	return until("the worker being ready", func() error {
		for _, m := range s.managers {
			ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
			resp, err := m.control().GetNode(ctx, &controlv1.GetNodeRequest{Ref: s.worker.name})
			stop()
			if err == nil && resp.GetNode().GetNode().GetStatus().GetState() != modelv1.NodeState_NODE_STATE_READY {
				err = fmt.Errorf("%s says it is %v", m.name, resp.GetNode().GetNode().GetStatus().GetState())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// rotate has a root follow whose key is known here. Nodes without a daemon, and
// users, would hold it open until its deadline.
func (s *swarm) rotate() error {
	if err := s.sweep(); err != nil {
		return err
	}
	der, key, err := issue.NextRoot(s.id, time.Now())
	if err != nil {
		return err
	}
	before := s.root
	if before.der == nil {
		if before, err = s.managers[0].root(); err != nil {
			return err
		}
	}
	cert, secret := filepath.Join(s.dir, "root.pem"), filepath.Join(s.dir, "root.key")
	if err := errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(secret, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key.Reveal()}), 0o600),
	); err != nil {
		return err
	}
	if _, err := s.managers[0].ctl("swarm", "ca", "--rotate", "-q", "--timeout", "90s", "--ca-cert", cert, "--ca-key", secret); err != nil {
		return err
	}
	s.former, s.root = before, authority{der, key}
	return os.Remove(secret)
}

// sweep removes what attackers left: nodes that have no daemon, and users.
func (s *swarm) sweep() error {
	ctx, stop := context.WithTimeout(context.Background(), soon)
	defer stop()
	api := s.managers[0].control()
	nodes, err := api.ListNodes(ctx, &controlv1.ListNodesRequest{})
	if err != nil {
		return err
	}
	users, err := api.ListUsers(ctx, &controlv1.ListUsersRequest{})
	if err != nil {
		return err
	}
	for _, n := range nodes.GetNodes() {
		if name := n.GetNode().GetDescription().GetHostname(); slices.ContainsFunc(s.hosts, func(h *host) bool { return h.name == name && h.cmd.ProcessState == nil }) {
			continue
		}
		ref, err := id.FromBytes(n.GetNode().GetId())
		if err != nil {
			return err
		}
		if _, err := api.RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: ref.String(), Force: true}); err != nil {
			return err
		}
	}
	for _, u := range users.GetUsers() {
		if _, err := api.RemoveUser(ctx, &controlv1.RemoveUserRequest{RequestId: requestID(), Ref: u.GetName()}); err != nil {
			return err
		}
	}
	return nil
}

// end kills every process and removes what they wrote.
func (s *swarm) end() error {
	var errs []error
	for _, h := range s.hosts {
		h.kill()
	}
	for _, dir := range []string{s.dir, s.run} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// within is a context for one call.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	t.Cleanup(stop)
	return ctx
}

// nodes counts the nodes there are.
func (s *swarm) nodes(t *testing.T) int {
	t.Helper()
	resp, err := s.managers[0].control().ListNodes(within(t, soon), &controlv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.GetNodes())
}

// leader returns the manager that leads, and those that do not.
func (s *swarm) leader(t *testing.T) (leader *host, followers []*host) {
	t.Helper()
	err := until("a leader", func() error {
		leader, followers = nil, nil
		for _, m := range s.managers {
			info, err := m.local().Info(within(t, soon), &localv1.InfoRequest{})
			if err != nil {
				return err
			}
			if info.GetLeader() {
				leader = m
			} else {
				followers = append(followers, m)
			}
		}
		if leader == nil || len(followers) != len(s.managers)-1 {
			return errors.New("not one")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return leader, followers
}

// newKey draws a key.
func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrOf(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func requestID() []byte { return ctl.RequestID() }
