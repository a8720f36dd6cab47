package bubble

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/node"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A cluster is hosts on one network. It lives in one bubble.
type cluster struct {
	t     *testing.T
	net   *network
	hosts []*host
	log   *journal
}

// A host is a machine: a disk, containers, an address, and the daemon.
type host struct {
	c    *cluster
	name string
	addr string // without port
	disk string
	// containers outlive the daemon.
	containers *exectest.Host
	boots      int
	fips       bool // its daemon says that it is in FIPS 140-3 mode

	id    id.ID
	stack *stack
	cc    *grpc.ClientConn
	stop  context.CancelFunc
	ended chan error
}

// inBubble runs a test with a cluster of its own in virtual time.
func inBubble(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: newNetwork(), log: newJournal(t)}
		defer c.end()
		test(t, c)
	})
}

// end stops every daemon: dead, without farewells, which nobody would hear.
func (c *cluster) end() {
	for _, h := range c.hosts {
		h.kill()
	}
	for _, h := range c.hosts {
		h.await()
	}
}

// host adds a machine whose daemon runs and is in no swarm.
func (c *cluster) host(name string) *host {
	c.t.Helper()
	h := &host{
		c: c, name: name, addr: fmt.Sprintf("10.0.0.%d", len(c.hosts)+1), disk: c.t.TempDir(),
		containers: exectest.NewHost(),
	}
	c.hosts = append(c.hosts, h)
	time.Sleep(time.Duration(7*len(c.hosts)+6) * time.Millisecond) // no two hosts' clocks tick together
	h.boot()
	h.start()
	return h
}

// boot gives the host's kernel another boot id.
func (h *host) boot() {
	h.boots++
	text := fmt.Sprintf("%s-boot-%024d", h.addr[:8], h.boots)[:36]
	if err := os.WriteFile(filepath.Join(h.disk, "boot_id"), []byte(text), 0o600); err != nil {
		h.c.t.Fatal(err)
	}
}

// start runs the daemon from the disk and returns when it answers.
func (h *host) start() {
	t := h.c.t
	t.Helper()
	h.await()
	s := h.c.net.stack(h.addr)
	ctx, stop := context.WithCancel(t.Context())
	h.stack, h.stop, h.ended = s, stop, make(chan error, 1)
	began := make(chan struct{})
	cfg := node.Config{
		StateDir: filepath.Join(h.disk, "state"), RunDir: filepath.Join(h.disk, "run"),
		Hostname: h.name, BootIDFile: filepath.Join(h.disk, "boot_id"), FIPS: h.fips,
		Outside: &node.Outside{Listen: s.listen, ListenUnix: s.listen, Dial: s.dial, Runtime: h.containers.Runtime},
		Log:     h.c.log.of(h.name),
	}
	go func() { h.ended <- node.Run(ctx, cfg, func() { close(began) }) }()
	select {
	case <-began:
	case err := <-h.ended:
		t.Fatalf("%s: the daemon does not start: %v", h.name, err)
	}
	var err error
	socket := filepath.Join(cfg.RunDir, "ctl.sock")
	h.cc, err = rpc.DialUnix(socket, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return s.dialUnix(socket) }))
	if err != nil {
		t.Fatal(err)
	}
}

// kill ends the daemon's process at once. Its containers run on. What a dead
// process still does is heard by nobody, and not waited for until the next start.
func (h *host) kill() {
	h.stack.kill()
	h.stop()
	_ = h.cc.Close()
}

// shutdown stops the daemon in order, as systemd does.
func (h *host) shutdown() {
	h.stop()
	h.await()
	h.stack.kill()
	_ = h.cc.Close()
}

// await returns when the last daemon of the host has ended.
func (h *host) await() {
	if h.ended == nil {
		return
	}
	if err := <-h.ended; err != nil {
		h.c.t.Logf("%s: the daemon ended with %v", h.name, err)
	}
	h.ended = nil
}

// port is where the host's manager listens.
func (h *host) port() string { return h.addr + ":2377" }

func (h *host) control() controlv1.ControlClient { return controlv1.NewControlClient(h.cc) }
func (h *host) local() localv1.LocalClient       { return localv1.NewLocalClient(h.cc) }

// init founds the swarm.
func (h *host) init(spec *modelv1.ClusterSpec) {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.local().Init(ctx, &localv1.InitRequest{AdvertiseAddr: h.addr, ListenAddr: h.addr, Spec: spec})
	if err != nil {
		h.c.t.Fatalf("init on %s: %v", h.name, err)
	}
	h.id = mustID(h.c.t, resp.GetNode())
	h.isActive("founded")
}

// isActive is that who asks a node right after it has become one is told so.
func (h *host) isActive(how string) {
	h.c.t.Helper()
	if state := h.info().GetState(); state != localv1.State_STATE_ACTIVE {
		h.c.t.Errorf("%s has %s a swarm and is %v, want active", h.name, how, state)
	}
}

// join joins through a manager.
func (h *host) join(via *host, role modelv1.Role) {
	t := h.c.t
	t.Helper()
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	token, err := via.control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: role})
	if err != nil {
		t.Fatalf("token for %s: %v", h.name, err)
	}
	resp, err := h.local().Join(ctx, &localv1.JoinRequest{
		Token: token.GetToken(), Remotes: []string{via.addr}, AdvertiseAddr: h.addr, ListenAddr: h.addr,
	})
	if err != nil {
		t.Fatalf("join %s: %v", h.name, err)
	}
	if resp.GetRole() != role {
		t.Fatalf("%s joined as %v, want %v", h.name, resp.GetRole(), role)
	}
	h.id = mustID(t, resp.GetNode())
	h.isActive("joined")
}

func (c *cluster) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.t.Context(), d)
}

func mustID(t *testing.T, b []byte) id.ID {
	t.Helper()
	x, err := id.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return x
}
