package bubble

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// revokedIn is how soon a revocation holds on every manager in contact with the
// quorum (R18).
const revokedIn = time.Second

// A thief has a copy of somebody's key and certificate, on a machine of his own.
type thief struct {
	c      *cluster
	holder ca.Holder
}

// thief copies the identity that lies on a host's disk.
func (h *host) thief() *thief {
	h.c.t.Helper()
	me, _ := h.identity()
	cred, err := me.Credential()
	if err != nil {
		h.c.t.Fatal(err)
	}
	th := &thief{c: h.c}
	th.holder.Set(cred)
	return th
}

// conn is a connection of the thief to a manager.
func (th *thief) conn(m *host) *grpc.ClientConn {
	cc, err := rpc.Dial(m.port(), rpc.ClientTLS(&th.holder, rpc.Peer{}), rpc.Through(th.c.net.stack("10.0.0.97").dial)...)
	if err != nil {
		th.c.t.Fatal(err)
	}
	th.c.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// An attempt opens something at a manager; what it returns reads on until that ends.
type attempt func(ctx context.Context, m *host) (next func() error, err error)

// session is a node's session.
func (th *thief) session(ctx context.Context, m *host) (func() error, error) {
	s, err := dispatchv1.NewDispatchClient(th.conn(m)).Session(ctx)
	if err != nil {
		return nil, err
	}
	err = s.Send(&dispatchv1.SessionRequest{Beat: 1, Open: &dispatchv1.Open{Session: 1 << 40, Hello: &rpcv1.Hello{Boot: []byte("of the thief----")}}})
	if err == nil || errors.Is(err, io.EOF) { // then the answer says why it is over
		_, err = s.Recv()
	}
	return func() error { _, err := s.Recv(); return err }, err
}

// raft speaks as a member.
func (th *thief) raft(from uint64) attempt {
	return func(ctx context.Context, m *host) (func() error, error) {
		s, err := raftv1.NewRaftClient(th.conn(m)).Stream(ctx)
		if err != nil {
			return nil, err
		}
		hello := &rpcv1.Hello{Cluster: m.record().GetId(), History: m.record().GetHistory()}
		if err := s.Send(&raftv1.StreamRequest{Hello: hello, From: from, To: m.raftID()}); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		} // else the answer says why it is over
		_, err = s.Recv()
		return func() error { _, err := s.Recv(); return err }, err
	}
}

// raftID is that of the host's member.
func (h *host) raftID() uint64 { return h.nodes()[h.name].GetManager().GetRaftId() }

// cutEverywhere opens something at each manager, revokes, and returns how long it
// took until all of it was cut and no other could be opened. Refusals must be for the
// identity, and not because a manager is busy.
func (c *cluster) cutEverywhere(what string, open attempt, revoke func() error, managers ...*host) time.Duration {
	t := c.t
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ends := make(chan error, len(managers))
	for _, m := range managers {
		next, err := open(ctx, m)
		if err != nil {
			t.Fatalf("%s: open it at %s before: %v", what, m.name, err)
		}
		go func() {
			for {
				if err := next(); err != nil {
					ends <- err
					return
				}
			}
		}()
	}
	began := time.Now()
	if err := revoke(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for range managers {
		select {
		case err := <-ends:
			// One whose handler waits for the next word ends with its connection.
			if !denied(err) && !errdefs.IsUnavailable(err) {
				t.Errorf("%s: a stream ended with %v, want refused", what, err)
			}
		case <-time.After(revokedIn):
			t.Fatalf("%s: a stream is open after %v", what, time.Since(began))
		}
	}
	cut := time.Since(began)
	for _, m := range managers {
		if _, err := open(ctx, m); !denied(err) {
			t.Errorf("%s: opened again at %s: %v, want refused", what, m.name, err)
		}
	}
	if all := time.Since(began); all > revokedIn {
		t.Errorf("%s: it took %v until nothing went any more, want %v at most", what, all, revokedIn)
	}
	return cut
}

func denied(err error) bool { return errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) }

// TestARevocationHoldsOnEveryManagerWithinASecond: virtual time is the same in every
// run, so the bound is one.
func TestARevocationHoldsOnEveryManagerWithinASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		ms[0].ready(5)
		report := func(what string, took time.Duration) { t.Logf("%s: cut on three managers after %v", what, took) }

		gone := ws[0].thief()
		ws[0].kill()
		report("node rm", c.cutEverywhere("node rm", gone.session, func() error {
			_, err := ms[1].control().RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: ws[0].id.String(), Force: true})
			return err
		}, ms...))

		void := ws[1].thief()
		ws[1].kill()
		report("node update --revoke", c.cutEverywhere("node update --revoke", void.session, func() error {
			_, err := ms[2].control().UpdateNode(t.Context(), &controlv1.UpdateNodeRequest{RequestId: requestID(), Ref: ws[1].id.String(), Revoke: true})
			return err
		}, ms...))

		who := ms[0].user("alice", asViewer, 0)
		ms[0].define("web")
		watch := func(ctx context.Context, m *host) (func() error, error) {
			cc := c.at(m, who)
			t.Cleanup(func() { _ = cc.Close() })
			s, err := controlv1.NewControlClient(cc).WatchService(ctx, &controlv1.WatchServiceRequest{Ref: "web"})
			if err == nil {
				_, err = s.Recv()
			}
			return func() error { _, err := s.Recv(); return err }, err
		}
		report("user rm", c.cutEverywhere("user rm", watch, func() error {
			_, err := ms[1].control().RemoveUser(t.Context(), &controlv1.RemoveUserRequest{RequestId: requestID(), Ref: "alice"})
			return err
		}, ms...))
	})
}

// TestADemotedManagersCopyNeitherVotesNorAppendsNorReads: its key was copied while it
// was a manager, and its host is off.
func TestADemotedManagersCopyNeitherVotesNorAppendsNorReads(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		copied, member := ms[2].thief(), ms[2].raftID()
		ms[2].kill()
		left := ms[:2]
		began := time.Now()
		took := c.cutEverywhere("node demote", copied.raft(member), func() error { return ms[0].update(ms[2], asWorker, 0) }, left...)
		t.Logf("node demote: raft streams cut on the two others after %v", took)
		if n := len(c.log.since(began, "stream cut")); n < len(left) {
			t.Errorf("%d streams were cut, want one on each", n)
		}
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		for _, m := range left {
			cc := copied.conn(m)
			relay, err := dispatchv1.NewDispatchClient(cc).Relay(ctx)
			if err == nil {
				_, err = relay.Recv()
			}
			if !denied(err) {
				t.Errorf("what nodes report, at %s: %v, want refused", m.name, err)
			}
			if _, err := controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{}); !denied(err) {
				t.Errorf("a read at %s: %v, want refused", m.name, err)
			}
			if _, err := raftv1.NewMembersClient(cc).Join(ctx, &raftv1.JoinRequest{RaftId: member, Address: ms[2].port()}); !denied(err) {
				t.Errorf("joining the managers again at %s: %v, want refused", m.name, err)
			}
		}
		// It is a worker, and has what any worker has.
		if _, err := copied.session(ctx, ms[0]); err != nil {
			t.Errorf("a worker's session: %v", err)
		}
	})
}

// TestAManagerOutOfContactKeepsWhatIsOpenAndLetsNobodyIn: it cannot know of the
// revocation (R18). It learns of it with the first word of the quorum.
func TestAManagerOutOfContactKeepsWhatIsOpenAndLetsNobodyIn(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		w := c.workers(1, ms[0])[0]
		ms[0].ready(4)
		gone, far := w.thief(), ms[2]
		w.kill()
		ctx, stop := c.within(10 * time.Minute)
		defer stop()
		next, err := gone.session(ctx, far)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			for {
				if err := next(); err != nil {
					ended <- err
					return
				}
			}
		}()
		for _, m := range ms[:2] {
			c.net.split(far.addr, m.addr, true)
		}
		time.Sleep(3 * time.Second) // it was heard of two seconds ago, at most, until then
		if _, err := ms[0].control().RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: w.id.String(), Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := gone.session(ctx, far); !errdefs.IsUnavailable(err) {
			t.Errorf("a new session out of contact: %v, want unavailable", err)
		}
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			t.Errorf("what was open ended with %v", err)
		default:
		}
		for _, m := range ms[:2] {
			c.net.split(far.addr, m.addr, false)
		}
		c.until(30*time.Second, "it hears the quorum", func() bool { return !far.info().GetOutOfContact() })
		began := time.Now()
		select {
		case err := <-ended:
			if !denied(err) {
				t.Errorf("the open session ended with %v, want refused", err)
			}
		case <-time.After(revokedIn):
			t.Errorf("the session is open %v after it is in contact again", time.Since(began))
		}
		if _, err := gone.session(ctx, far); !denied(err) {
			t.Errorf("a new session: %v, want refused", err)
		}
	})
}
