package adversary

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// session opens a node's session.
func session(ctx context.Context, cc *grpc.ClientConn) (dispatchv1.Dispatch_SessionClient, error) {
	s, err := dispatchv1.NewDispatchClient(cc).Session(ctx)
	if err != nil {
		return nil, err
	}
	open := &dispatchv1.SessionRequest{Beat: 1, Open: &dispatchv1.Open{Session: 1 << 40, Hello: &rpcv1.Hello{Boot: []byte("of the thief----")}}}
	if err := s.Send(open); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} // else the answer says why it is over
	_, err = s.Recv()
	return s, err
}

// TestDemotedManagersKeptCertificate: its keys were copied while it was a manager.
// They open nothing of a manager's any more: no method, no raft, no open stream.
func TestDemotedManagersKeptCertificate(t *testing.T) {
	s := attacked(t)
	fourth, err := s.host("m4")
	if err != nil {
		t.Fatal(err)
	}
	defer fourth.kill()
	if err := fourth.join(s.managers[0], asManager); err != nil {
		t.Fatal(err)
	}
	_, me := fourth.copyKeys(t)
	cred, err := me.Credential()
	if err != nil || cred.Identity.Role != asManager {
		t.Fatalf("the copy is of %v: %v", cred, err)
	}
	copied := attacker{chain: cred.Chain, key: me.Key, from: "127.0.0.61"}
	node, err := s.managers[0].control().GetNode(within(t, soon), &controlv1.GetNodeRequest{Ref: "m4"})
	if err != nil {
		t.Fatal(err)
	}
	member := node.GetNode().GetManager().GetRaftId()
	cluster, _, err := s.managers[0].stolen()
	if err != nil {
		t.Fatal(err)
	}
	raft := func(m *host) (raftv1.Raft_StreamClient, error) {
		st, err := raftv1.NewRaftClient(copied.conn(t, m)).Stream(within(t, 2*soon))
		if err != nil {
			return nil, err
		}
		to, err := s.managers[0].control().GetNode(within(t, soon), &controlv1.GetNodeRequest{Ref: m.name})
		if err != nil {
			return nil, err
		}
		hello := &rpcv1.Hello{Cluster: cluster.GetId(), History: cluster.GetHistory()}
		if err := st.Send(&raftv1.StreamRequest{Hello: hello, From: member, To: to.GetNode().GetManager().GetRaftId()}); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		} // else the answer says why it is over
		_, err = st.Recv()
		return st, err
	}
	fourth.kill()
	var open []raftv1.Raft_StreamClient
	for _, m := range s.managers {
		st, err := raft(m)
		if err != nil {
			t.Fatalf("as a manager it speaks raft to %s: %v", m.name, err)
		}
		open = append(open, st)
	}
	if _, err := s.managers[0].ctl("node", "demote", "m4"); err != nil {
		t.Fatal(err)
	}
	for i, st := range open {
		if _, err := st.Recv(); err == nil || errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err) {
			t.Errorf("its raft stream to %s is open: %v", s.managers[i].name, err)
		}
	}
	for _, m := range s.managers {
		for name, err := range callAll(t, copied.conn(t, m), func(m method) bool { return !everyone(m) && !m.for1(rpcv1.Who_WHO_NODE) }) {
			if !denied(err) {
				t.Errorf("it calls %s at %s: %v, want denied", name, m.name, err)
			}
		}
		if _, err := raft(m); !denied(err) {
			t.Errorf("it speaks raft to %s again: %v, want denied", m.name, err)
		}
		api := raftv1.NewMembersClient(copied.conn(t, m))
		if _, err := api.Join(within(t, soon), &raftv1.JoinRequest{RaftId: member, Address: fourth.addr}); !denied(err) {
			t.Errorf("it joins the managers again at %s: %v, want denied", m.name, err)
		}
		if _, err := api.Ring(within(t, soon), &raftv1.RingRequest{}); !denied(err) {
			t.Errorf("it asks %s for the data keys: %v, want denied", m.name, err)
		}
	}
}

// TestAFollowerCutOffIsFedARevokedCertificate: it cannot have heard of the
// revocation, or not for certain. It lets nobody in until it hears the quorum, and
// then knows.
func TestAFollowerCutOffIsFedARevokedCertificate(t *testing.T) {
	s := attacked(t)
	thief, joined := s.enrolled(t)
	user, _ := s.user(t, "leaver", modelv1.UserRole_USER_ROLE_ADMIN)
	leader, followers := s.leader(t)
	alone, others := followers[0], []*host{followers[1], leader}
	stop(t, alone)
	if _, err := leader.control().RemoveNode(within(t, soon), &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: joined.Credential.Identity.Node.String(), Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.control().RemoveUser(within(t, soon), &controlv1.RemoveUserRequest{RequestId: requestID(), Ref: "leaver"}); err != nil {
		t.Fatal(err)
	}
	stop(t, others...)
	goOn(t, alone)
	// It may take itself for one in contact for two seconds of its own, and lets in
	// then only whom it would let in if it were (R18).
	err := until("it knows that it is alone", func() error {
		info, err := alone.local().Info(within(t, soon), &localv1.InfoRequest{})
		if err == nil && !info.GetOutOfContact() {
			err = errors.New("it does not")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := session(within(t, soon), thief.conn(t, alone)); !denied(err) && !errdefs.IsUnavailable(err) {
			t.Errorf("a removed node's session at a manager that is alone: %v, want refused", err)
		}
		if _, err := controlv1.NewControlClient(user.conn(t, alone)).GetJoinToken(within(t, soon), &controlv1.GetJoinTokenRequest{Role: asManager}); !denied(err) && !errdefs.IsUnavailable(err) {
			t.Errorf("a removed user asks it for a token: %v, want refused", err)
		}
		if _, err := renew(t, thief.conn(t, alone), csrOf(t, newKey(t))); !denied(err) && !errdefs.IsUnavailable(err) {
			t.Errorf("a removed node asks it for a certificate: %v, want refused", err)
		}
	}
	goOn(t, others...)
	if err := until("it refuses the thief for good", func() error {
		_, err := session(within(t, soon), thief.conn(t, alone))
		if denied(err) {
			return nil
		}
		return errors.Join(errors.New("not yet"), err)
	}); err != nil {
		t.Error(err)
	}
	if err := s.whole(); err != nil {
		t.Error(err)
	}
}

// stop stops processes where they are, as if their hosts hung.
func stop(t *testing.T, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		if err := h.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.cmd.Process.Signal(syscall.SIGCONT) }) // it may run already
	}
}

func goOn(t *testing.T, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		if err := h.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAStolenKeyAfterARenewal: the certificate that it goes with was superseded, and
// the thief asks for the next one. He gets none by himself.
func TestAStolenKeyAfterARenewal(t *testing.T) {
	s := attacked(t)
	owner, joined := s.enrolled(t)
	thief := owner
	for range 2 { // the one before the present one may repeat its own request
		key := newKey(t)
		next, err := renew(t, owner.conn(t, s.managers[1]), csrOf(t, key))
		if err != nil {
			t.Fatal(err)
		}
		owner = attacker{chain: next.GetIssued().GetChain(), key: key, from: owner.from}
	}
	for _, m := range s.managers {
		if _, err := session(within(t, soon), thief.conn(t, m)); !denied(err) {
			t.Errorf("a session with the first certificate at %s: %v, want denied", m.name, err)
		}
	}
	got, err := renew(t, thief.conn(t, s.managers[2]), csrOf(t, newKey(t)))
	if err == nil && got.GetIssued() != nil {
		t.Errorf("the thief of node %s has another certificate", joined.Credential.Identity.Node)
	}
	if err != nil && !denied(err) {
		t.Errorf("the thief asks for another: %v", err)
	}
	if _, err := session(within(t, soon), owner.conn(t, s.managers[0])); err != nil {
		t.Errorf("the owner's session: %v", err)
	}
}

// TestAWorkerAnswersForAManager: nodes and people who dial it find out in the
// handshake, and tell it nothing.
func TestAWorkerAnswersForAManager(t *testing.T) {
	s := attacked(t)
	worker, joined := s.enrolled(t)
	_, who := s.user(t, "dialler", modelv1.UserRole_USER_ROLE_VIEWER)
	m := attacker{chain: [][]byte{worker.chain[0], s.root.der}, key: worker.key}.answer(t)
	holder := &ca.Holder{}
	holder.Set(joined.Credential)
	for what, dial := range map[string]func() (*grpc.ClientConn, error){
		"a node": func() (*grpc.ClientConn, error) { return rpc.Dial(m.addr, rpc.ClientTLS(holder, rpc.Peer{})) },
		"a user": func() (*grpc.ClientConn, error) { return rpc.Dial(m.addr, rpc.UserTLS(who.Credential, rpc.Peer{})) },
	} {
		cc, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		_, err = controlv1.NewControlClient(cc).ListNodes(within(t, 5*time.Second), &controlv1.ListNodesRequest{})
		if err == nil || !strings.Contains(err.Error(), "worker's certificate") {
			t.Errorf("%s: %v, want that it is a worker's", what, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told.Len() > 0 {
		t.Errorf("it was told %d bytes", m.told.Len())
	}
}
