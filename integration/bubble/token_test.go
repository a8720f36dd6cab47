package bubble

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// token makes a join token as ctl does.
func (h *host) token(req *controlv1.CreateTokenRequest) (text string, made *modelv1.JoinToken) {
	t := h.c.t
	t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	secret := ca.NewTokenSecret()
	hash := sha256.Sum256(secret.Reveal())
	req.RequestId, req.SecretHash, req.Role = id.New().Bytes(), hash[:], asWorker
	resp, err := h.control().CreateToken(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := ca.DigestFromBytes(resp.GetToken().GetRoot())
	if err != nil {
		t.Fatal(err)
	}
	return ca.Token{Digest: digest, Secret: secret}.Reveal(), resp.GetToken()
}

// ask asks once to join by a token.
func (h *host) ask(token string, via ...*host) (*localv1.JoinResponse, error) {
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	req := &localv1.JoinRequest{Token: token, AdvertiseAddr: h.addr, ListenAddr: h.addr}
	for _, m := range via {
		req.Remotes = append(req.Remotes, m.addr)
	}
	resp, err := h.local().Join(ctx, req)
	if err == nil {
		h.id = mustID(h.c.t, resp.GetNode())
	}
	return resp, err
}

// TestATokenOfOneUseLetsInOneWhileTheLeaderIsLost: machines race for it, at every
// manager, while the leader dies; whoever gets no answer asks again.
func TestATokenOfOneUseLetsInOneWhileTheLeaderIsLost(t *testing.T) {
	for _, at := range []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond} {
		t.Run(at.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				ms[0].ready(3)
				text, made := ms[1].token(&controlv1.CreateTokenRequest{})
				var racers []*host
				for i := range 100 {
					racers = append(racers, c.host(fmt.Sprintf("r%d", i)))
				}
				var in atomic.Int64
				var wg sync.WaitGroup
				for i, r := range racers {
					wg.Go(func() {
						for {
							_, err := r.ask(text, ms[i%3], ms[1], ms[2])
							if err == nil {
								in.Add(1)
								return
							}
							if errdefs.IsPermissionDenied(err) {
								if !strings.Contains(err.Error(), "used already") {
									t.Errorf("%s was refused with: %v", r.name, err)
								}
								return
							}
							time.Sleep(200 * time.Millisecond)
						}
					})
				}
				time.Sleep(at)
				ms[0].kill()
				wg.Wait()
				ctx, stop := c.within(10 * time.Second)
				defer stop()
				list, err := ms[1].control().ListNodes(ctx, &controlv1.ListNodesRequest{})
				if err != nil || in.Load() != 1 || len(list.GetNodes()) != 4 {
					t.Errorf("%d machines were let in, and there are %d nodes; %v", in.Load(), len(list.GetNodes()), err)
				}
				resp, err := ms[2].control().GetToken(ctx, &controlv1.GetTokenRequest{Ref: mustID(t, made.GetId()).String()})
				if u := resp.GetToken().GetUsed(); err != nil || len(u) != 1 {
					t.Errorf("the token notes %v, %v", u, err)
				}
			})
		})
	}
}

// TestANodeThatIsToBeApprovedWaitsThroughEverything: its daemon's restart, the
// loss of the leader, and two leases. Nothing of it is lost, and nothing of it is
// taken for a node.
func TestANodeThatIsToBeApprovedWaitsThroughEverything(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		text, _ := ms[0].token(&controlv1.CreateTokenRequest{Approve: true, Labels: map[string]string{"zone": "a"}})
		w := c.host("w")
		first, err := w.ask(text, ms[0])
		if err != nil || len(first.GetPendingKey()) == 0 {
			t.Fatalf("asked to join: %v, %v", first, err)
		}
		w.shutdown()
		w.start()
		ms[0].kill()
		var again *localv1.JoinResponse
		c.until(10*time.Second, "the node asking again", func() bool {
			again, err = w.ask(text, ms[1], ms[2])
			return err == nil
		})
		if string(again.GetPendingKey()) != string(first.GetPendingKey()) || string(again.GetNode()) != string(first.GetNode()) {
			t.Errorf("it waits as %v, and waited as %v", again, first)
		}
		time.Sleep(3 * lease)
		if got := ms[1].nodes()["w"].GetNode(); got.GetStatus().GetState() == down || got.GetMembership() != modelv1.Membership_MEMBERSHIP_PENDING || got.GetCurrent() != nil {
			t.Errorf("the node that waits is %v", got)
		}
		ctx, stop := c.within(30 * time.Second)
		defer stop()
		if _, err := ms[1].control().AcceptNode(ctx, &controlv1.AcceptNodeRequest{RequestId: id.New().Bytes(), Ref: "w"}); err != nil {
			t.Fatal(err)
		}
		in, err := w.ask(text, ms[1], ms[2])
		if err != nil || len(in.GetPendingKey()) != 0 || string(in.GetNode()) != string(first.GetNode()) {
			t.Fatalf("accepted, it joined as %v, %v", in, err)
		}
		c.until(10*time.Second, "the node ready with the token's label", func() bool {
			n := ms[1].nodes()["w"].GetNode()
			return n.GetStatus().GetState() == ready && n.GetSpec().GetLabels()["zone"] == "a"
		})
	})
}

// TestADaemonWaitsToBeAcceptedByItself: nobody asks again for it, its host reboots, no
// manager answers for a while, and it is in when it is accepted.
func TestADaemonWaitsToBeAcceptedByItself(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		text, _ := m.token(&controlv1.CreateTokenRequest{Approve: true})
		w := c.host("w")
		first, err := w.ask(text, m)
		if err != nil || len(first.GetPendingKey()) == 0 {
			t.Fatalf("asked to join: %v, %v", first, err)
		}
		waits := func(i *localv1.InfoResponse) bool {
			return i.GetState() == localv1.State_STATE_PENDING && string(i.GetPendingKey()) == string(first.GetPendingKey())
		}
		if i := w.info(); !waits(i) || string(i.GetNode()) != string(first.GetNode()) || i.GetPendingUntil() != first.GetPendingUntil() {
			t.Errorf("its own word is %v, want what it was told: %v", i, first)
		}
		ctx, stop := c.within(time.Hour)
		defer stop()
		if _, err := w.control().ListNodes(ctx, &controlv1.ListNodesRequest{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "waits for an operator to accept it; its key is ") {
			t.Errorf("asked for the nodes it says: %v", err)
		}
		_, err = w.local().Init(ctx, &localv1.InitRequest{AdvertiseAddr: w.addr, ListenAddr: w.addr})
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("it founded a swarm while it waits: %v", err)
		}
		w.kill()
		m.kill()
		w.boot()
		w.start()
		c.until(30*time.Second, "it says why it cannot ask", func() bool {
			i := w.info()
			return waits(i) && strings.Contains(i.GetError(), "of late in vain")
		})
		m.start()
		c.until(30*time.Second, "it has asked again", func() bool { return waits(w.info()) && len(w.info().GetNode()) > 0 })
		if n := len(m.nodes()); n != 2 {
			t.Errorf("there are %d nodes, want the manager and the one that waits", n)
		}
		if _, err := m.control().AcceptNode(ctx, &controlv1.AcceptNodeRequest{RequestId: id.New().Bytes(), Ref: "w"}); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, "it is in", func() bool { return m.state(w) == ready && w.info().GetState() == localv1.State_STATE_ACTIVE })
		if again, err := w.ask(text, m); err != nil || string(again.GetNode()) != string(first.GetNode()) || again.GetRole() != asWorker {
			t.Errorf("the same command says: %v, %v; want that it is in", again, err)
		}
		w.shutdown()
		w.start()
		c.until(30*time.Second, "it is a node like any other", func() bool { return m.state(w) == ready })
	})
}

// TestWhoIsRejectedIsToldSoAndAsksNoMore: nor does who has given up.
func TestWhoIsRejectedIsToldSoAndAsksNoMore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		text, _ := m.token(&controlv1.CreateTokenRequest{Approve: true, Uses: 2})
		ctx, stop := c.within(time.Hour)
		defer stop()
		inactive := func(h *host, words string) func() bool {
			return func() bool {
				i := h.info()
				return i.GetState() == localv1.State_STATE_INACTIVE && strings.Contains(i.GetError(), words) && len(i.GetPendingKey()) == 0
			}
		}
		w, x := c.host("w"), c.host("x")
		for _, h := range []*host{w, x} {
			if resp, err := h.ask(text, m); err != nil || len(resp.GetPendingKey()) == 0 {
				t.Fatalf("%s asked to join: %v, %v", h.name, resp, err)
			}
		}
		if _, err := m.control().RejectNode(ctx, &controlv1.RejectNodeRequest{RequestId: id.New().Bytes(), Ref: "w"}); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, "it says that it was rejected", inactive(w, "an operator rejected this node"))
		if _, err := x.local().Leave(ctx, &localv1.LeaveRequest{}); err != nil {
			t.Fatalf("giving up: %v", err)
		}
		for _, h := range []*host{w, x} {
			h.shutdown()
			h.start()
			if !inactive(h, "")() {
				t.Errorf("started again, %s is %v", h.name, h.info())
			}
			plain, _ := m.token(&controlv1.CreateTokenRequest{})
			if resp, err := h.ask(plain, m); err != nil || resp.GetRole() != asWorker {
				t.Errorf("%s joined with another token: %v, %v", h.name, resp, err)
			}
		}
	})
}

// TestARestoreEndsTheTokensOfTheBackup: nobody knows what they let in since.
func TestARestoreEndsTheTokensOfTheBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		text, made := m.token(&controlv1.CreateTokenRequest{})
		data := m.mustBackup()
		m.kill()
		r := c.host("r")
		r.mustRestore(data, true)
		w := c.host("w")
		if _, err := w.ask(text, r); !errdefs.IsPermissionDenied(err) {
			t.Errorf("joined with a token of the backup: %v", err)
		}
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		c.until(10*time.Second, "the token revoked", func() bool {
			resp, err := r.control().GetToken(ctx, &controlv1.GetTokenRequest{Ref: mustID(t, made.GetId()).String()})
			return err == nil && resp.GetToken().GetEnd() == modelv1.TokenEnd_TOKEN_END_REVOKED
		})
		fresh, _ := r.token(&controlv1.CreateTokenRequest{})
		if _, err := w.ask(fresh, r); err != nil {
			t.Errorf("joined with a token made since: %v", err)
		}
	})
}
