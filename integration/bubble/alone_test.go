package bubble

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// A lone agent is the agent of a host whose daemon does not run, with its
// identity and journal: what it says is the test's choice.
type loneAgent struct {
	agent *agent.Agent
	stop  context.CancelFunc
	ended chan error
}

// alone runs the agent of a host. Its daemon must have been stopped.
func (h *host) alone() *loneAgent {
	t := h.c.t
	t.Helper()
	h.await()
	s := h.c.net.stack(h.addr)
	h.stack = s
	me, kek := h.identity()
	cred, err := me.Credential()
	if err != nil {
		t.Fatal(err)
	}
	holder := &ca.Holder{}
	holder.Set(cred)
	boot, err := os.ReadFile(filepath.Join(h.disk, "boot_id"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{
		Cluster: cred.Identity.Cluster, Node: cred.Identity.Node,
		Runtime:  h.containers.Runtime(cred.Identity.Cluster, cred.Identity.Node),
		StateDir: filepath.Join(h.disk, "state", "agent"), KEK: kek.KEK(),
		Managers: me.Facts.Managers, Hello: &rpcv1.Hello{Boot: boot, Incarnation: id.New().Bytes()},
		Description: &modelv1.NodeDescription{Hostname: h.name},
		Dial: func(_ context.Context, m *cav1.Manager) (*grpc.ClientConn, error) {
			return rpc.Dial(m.GetAddress(), rpc.ClientTLS(holder, rpc.Peer{}), rpc.Through(s.dial)...)
		},
		Log: h.c.log.of(h.name),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l := &loneAgent{agent: a, stop: stop, ended: make(chan error, 1)}
	h.ended = l.ended
	h.stop = stop
	go func() { l.ended <- a.Run(ctx) }()
	h.c.until(5*time.Second, h.name+"'s agent in touch", func() bool { return a.Status().Session.Manager != nil })
	return l
}

// identity is the host's, from its disk.
func (h *host) identity() (*keystore.Node, *keystore.Store) {
	t := h.c.t
	t.Helper()
	dir, err := os.OpenRoot(filepath.Join(h.disk, "state", "keys"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }() // it was read only
	keys, err := keystore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	me, err := keys.Load()
	if err != nil {
		t.Fatal(err)
	}
	return me, keys
}
