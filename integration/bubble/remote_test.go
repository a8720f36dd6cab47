package bubble

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	ctl "github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// user makes a user on the host's own socket, and returns the context.
func (h *host) user(name string, role modelv1.UserRole, ttl time.Duration) *wallet.Context {
	t := h.c.t
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().CreateUser(ctx, &controlv1.CreateUserRequest{
		RequestId: ctl.RequestID(), Name: name, Role: role, Ttl: int64(ttl), Csr: csr,
	})
	if err != nil {
		t.Fatal(err)
	}
	who, err := wallet.New(resp.GetIssued(), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// desk is a machine without a daemon, where ctl is run with a context.
func (c *cluster) desk(who *wallet.Context) *ctl.Conn {
	s := c.net.stack("10.0.0.99")
	streams := say.Streams{Out: io.Discard, Err: io.Discard}
	return ctl.New(streams.Filled(), ctl.Managers(who)).Through(ctl.Remote{Who: who, Grows: true, Dial: s.dial})
}

// at is a plain connection of a user to one manager.
func (c *cluster) at(h *host, who *wallet.Context) *grpc.ClientConn {
	c.t.Helper()
	cc, err := rpc.Dial(h.port(), rpc.UserTLS(who.Credential, rpc.Peer{}), rpc.Through(c.net.stack("10.0.0.98").dial)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return cc
}

func look(ctx context.Context, api *ctl.Conn) (int, error) {
	resp, err := ctl.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{})
	return len(resp.GetNodes()), err
}

func order(ctx context.Context, api *ctl.Conn, name string) error {
	_, err := ctl.Change(ctx, api, controlv1.ControlClient.CreateService, &controlv1.CreateServiceRequest{
		RequestId: ctl.RequestID(), Spec: replicated(name, 1), Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}},
	})
	return err
}

const (
	asViewer   = modelv1.UserRole_USER_ROLE_VIEWER
	asOperator = modelv1.UserRole_USER_ROLE_OPERATOR
)

func TestARemoteClientGoesOnWithAnotherManager(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(c *cluster, leader *host, others []*host)
		most time.Duration
	}{
		{"the leader's process is killed", func(_ *cluster, leader *host, _ []*host) { leader.kill() }, 3 * time.Second},
		{"the leader's host goes dark", func(c *cluster, leader *host, _ []*host) { c.net.setDark(leader.addr, true) }, 25 * time.Second},
		{"the leader is cut off from the others, and not from the client", func(c *cluster, leader *host, others []*host) {
			for _, o := range others {
				c.net.split(leader.addr, o.addr, true)
			}
		}, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				ms[0].ready(3)
				who := ms[0].user("alice", asOperator, 0)
				for who.Managers = nil; len(who.Managers.GetManagers()) < 3; time.Sleep(time.Second) {
					who = ms[0].list(who)
				}
				who.Last = ms[0].port()
				api := c.desk(who)
				defer api.Close()
				ctx, stop := c.within(time.Minute)
				defer stop()
				if n, err := look(ctx, api); err != nil || n != 3 {
					t.Fatalf("before: %d nodes, %v", n, err)
				}
				if err := order(ctx, api, "before"); err != nil {
					t.Fatal(err)
				}
				tt.lose(c, ms[0], ms[1:])
				began := time.Now()
				if err := order(ctx, api, "after"); err != nil {
					t.Fatalf("a write after the loss: %v", err)
				}
				t.Logf("the write took %v", time.Since(began))
				if took := time.Since(began); took > tt.most {
					t.Errorf("the write took %v, want at most %v", took, tt.most)
				}
				if n, err := look(ctx, api); err != nil || n != 3 {
					t.Errorf("after: %d nodes, %v", n, err)
				}
				resp, err := ms[1].control().ListServices(ctx, &controlv1.ListServicesRequest{})
				if err != nil || len(resp.GetServices()) != 2 {
					t.Errorf("services %v, %v; want each once", resp.GetServices(), err)
				}
			})
		})
	}
}

// define creates a service, whether or not there is a node for it.
func (h *host) define(name string) {
	h.c.t.Helper()
	if _, err := h.create(10*time.Second, replicated(name, 1)); err != nil {
		h.c.t.Fatal(err)
	}
}

// list is who with the host's list of managers.
func (h *host) list(who *wallet.Context) *wallet.Context {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().ListManagers(ctx, &controlv1.ListManagersRequest{})
	if err != nil {
		h.c.t.Fatal(err)
	}
	next, _ := who.Learn(resp, "", true, time.Now())
	return next
}

func TestARemovedUsersWatchIsCutOnAFollowerWithinASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		ms[0].define("web")
		who := ms[0].user("alice", asViewer, 0)
		var watches []controlv1.Control_WatchServiceClient
		for _, m := range ms {
			cc := c.at(m, who)
			defer func() { _ = cc.Close() }()
			w, err := controlv1.NewControlClient(cc).WatchService(t.Context(), &controlv1.WatchServiceRequest{Ref: "web"})
			if err == nil {
				_, err = w.Recv()
			}
			if err != nil {
				t.Fatalf("a watch at %s: %v", m.name, err)
			}
			watches = append(watches, w)
		}
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		began := time.Now()
		if _, err := ms[1].control().RemoveUser(ctx, &controlv1.RemoveUserRequest{RequestId: ctl.RequestID(), Ref: "alice"}); err != nil {
			t.Fatal(err)
		}
		for i, w := range watches {
			for err := error(nil); err == nil; {
				if _, err = w.Recv(); err != nil && !strings.Contains(err.Error(), "user alice was removed") {
					t.Errorf("at %s the watch ends with %v", ms[i].name, err)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("at %s the watch is cut after %v, want within a second", ms[i].name, took)
			}
			cc := c.at(ms[i], who)
			if _, err := controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{}); err == nil || !strings.Contains(err.Error(), "user alice was removed") {
				t.Errorf("at %s a call then: %v", ms[i].name, err)
			}
			_ = cc.Close()
		}
	})
}

func TestAUsersTimeIsOverInWords(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		m.ready(1)
		m.define("web")
		who := m.user("alice", asViewer, 10*time.Minute)
		api := c.desk(who)
		defer api.Close()
		ctx, stop := c.within(time.Hour)
		defer stop()
		if _, err := look(ctx, api); err != nil {
			t.Fatal(err)
		}
		cc := c.at(m, who)
		defer func() { _ = cc.Close() }()
		w, err := controlv1.NewControlClient(cc).WatchService(ctx, &controlv1.WatchServiceRequest{Ref: "web"})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for err == nil {
			_, err = w.Recv()
		}
		if took := time.Since(began); took < 9*time.Minute || took > 11*time.Minute || !strings.Contains(err.Error(), "certificate of user alice expired at ") {
			t.Errorf("the watch ended after %v with %v", took, err)
		}
		if _, err := look(ctx, api); err == nil || !strings.Contains(err.Error(), "certificate of user alice expired at ") || !strings.Contains(rpc.HintOf(err), "ctl user renew alice") {
			t.Errorf("on the open connection: %v", err)
		}
		fresh := c.desk(who)
		defer fresh.Close()
		if _, err := look(ctx, fresh); err == nil || !strings.Contains(err.Error(), "certificate of user alice expired at ") {
			t.Errorf("on a new connection: %v", err)
		}
	})
}

func TestAWorkerThatPosesAsAManagerIsFoundOut(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		w := c.workers(1, m)[0]
		m.ready(2)
		who := m.user("alice", asViewer, 0)
		// It takes over the manager's address, with all it has.
		me, _ := w.identity()
		cred, err := me.Credential()
		if err != nil {
			t.Fatal(err)
		}
		m.kill()
		l, err := c.net.stack(m.addr).listen(m.port())
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			pose(l, cred.TLS())
		}()
		api := c.desk(who)
		defer api.Close()
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		_, err = look(ctx, api)
		if err == nil || !strings.Contains(err.Error(), "no manager of the swarm answers: tcp://"+m.port()+": ") || !strings.Contains(err.Error(), "a worker's certificate") ||
			say.Code(err) != say.Unreachable {
			t.Errorf("it is taken for %v", err)
		}
		_ = l.Close()
		<-heard
	})
}

// pose shows a certificate to whoever comes.
func pose(l net.Listener, cert *tls.Certificate) {
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
		_ = c.Handshake() // the client ends it
		_ = c.Close()
	}
}

func TestAManagerOutOfContactAnswersAUserStaleAndNotForLong(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		who := ms[0].list(ms[0].user("alice", asViewer, 0))
		ms[1].kill()
		ms[2].kill()
		time.Sleep(5 * time.Second)
		api := c.desk(who)
		defer api.Close()
		ctx, stop := c.within(time.Hour)
		defer stop()
		if _, err := look(ctx, api); err == nil {
			t.Error("a fresh read was answered without a quorum")
		} else {
			t.Logf("a fresh read: %v", err)
		}
		if n, err := look(rpc.Stale(ctx), api); err != nil || n != 3 {
			t.Errorf("a stale read: %d nodes, %v", n, err)
		}
		time.Sleep(6 * time.Minute)
		if _, err := look(rpc.Stale(ctx), api); err == nil || !strings.Contains(err.Error(), "has not heard of a quorum") && !strings.Contains(err.Error(), "no manager of the swarm answers") {
			t.Errorf("a stale read after six minutes: %v", err)
		}
	})
}
