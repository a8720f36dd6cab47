package bubble

import (
	"bytes"
	"crypto/x509"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/keystore"
	ctl "github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	inTrust = modelv1.RootPhase_ROOT_PHASE_TRUST
	inRenew = modelv1.RootPhase_ROOT_PHASE_RENEW
	inBack  = modelv1.RootPhase_ROOT_PHASE_BACK

	quarantine = modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE
)

// root is the root as a manager shows it; nil if it does not answer.
func (h *host) root() *controlv1.RootView {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().GetRoot(ctx, &controlv1.GetRootRequest{})
	if err != nil {
		return nil
	}
	return resp.GetRoot()
}

// rotate has the root rotated.
func (h *host) rotate(req *controlv1.RotateRootRequest) *controlv1.RotateRootResponse {
	h.c.t.Helper()
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	req.RequestId = requestID()
	resp, err := h.control().RotateRoot(ctx, req)
	if err != nil {
		h.c.t.Fatalf("rotate the root at %s: %v", h.name, err)
	}
	return resp
}

// abortRotation goes back to the root of before.
func (h *host) abortRotation(req *controlv1.AbortRootRotationRequest) {
	h.c.t.Helper()
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	req.RequestId = requestID()
	if _, err := h.control().AbortRootRotation(ctx, req); err != nil {
		h.c.t.Fatalf("abort the rotation at %s: %v", h.name, err)
	}
}

// inPhase reports whether a rotation is in a phase, as a manager shows it.
func (h *host) inPhase(p modelv1.RootPhase) bool { return h.root().GetRotation().GetPhase() == p }

// ended reports whether the last rotation ended so, and none is under way.
func (h *host) rotated(outcome modelv1.RootOutcome) bool {
	v := h.root()
	return v != nil && v.GetRotation() == nil && v.GetLast().GetOutcome() == outcome
}

// credential is what lies on a host's disk.
func (h *host) credential() (*ca.Credential, *keystore.Node) {
	h.c.t.Helper()
	me, _ := h.identity()
	cred, err := me.Credential()
	if err != nil {
		h.c.t.Fatal(err)
	}
	return cred, me
}

// onlyUnder fails unless hosts have certificates of the root and trust nothing else.
func (c *cluster) onlyUnder(root []byte, hosts ...*host) {
	c.t.Helper()
	for _, h := range hosts {
		cred, _ := h.credential()
		if ders := cred.Roots.DER(); len(ders) != 1 || string(ders[0]) != string(root) || !cred.SignedBy(ca.RootDigest(root)) {
			c.t.Errorf("%s trusts %d roots, and its certificate is of the present one: %v", h.name, len(ders), cred.SignedBy(ca.RootDigest(root)))
		}
	}
}

// knock asks a manager for what only a node with a good certificate is even told
// that its request makes no sense. It is how a manager judges cred.
func (c *cluster) knock(h *host, cred *ca.Credential) error {
	c.t.Helper()
	var holder ca.Holder
	holder.Set(cred)
	cc, err := rpc.Dial(h.port(), rpc.ClientTLS(&holder, rpc.Peer{Node: h.id}), rpc.Through(c.net.stack("10.0.0.97").dial)...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, stop := c.within(5 * time.Second)
	defer stop()
	_, err = cav1.NewAuthorityClient(cc).Renew(ctx, &cav1.RenewRequest{})
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) {
		return nil // it was looked at
	}
	return err
}

func TestTheRootIsRotatedAndNobodyIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		all := append(slices.Clone(ms), ws...)
		ms[0].ready(5)
		v := ms[0].everywhere("every", 5)
		before := ms[0].root().GetCertificates()[0]
		resp := ms[1].rotate(&controlv1.RotateRootRequest{})
		if resp.GetJoined() || resp.GetRoot().GetRotation().GetPhase() != inTrust {
			t.Errorf("asked for, it is %v", resp)
		}
		if again := ms[2].rotate(&controlv1.RotateRootRequest{}); !again.GetJoined() || string(again.GetRoot().GetRotation().GetId()) != string(resp.GetRoot().GetRotation().GetId()) {
			t.Errorf("asked for once more, it is %v", again)
		}
		c.until(time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		after := ms[0].root().GetCertificates()
		if len(after) != 1 || string(after[0]) == string(before) {
			t.Fatalf("%d roots are trusted after it", len(after))
		}
		time.Sleep(10 * time.Second)
		c.onlyUnder(after[0], all...)
		if gaps := v.over(); len(gaps) > 0 {
			t.Errorf("nodes were not heard: %v", gaps)
		}
		if n := len(ms[0].root().GetLast().GetStragglers()); n > 0 {
			t.Errorf("%d were left behind", n)
		}
	})
}

// TestARotationOutlivesItsLeaders: whoever leads is killed, at moments that lie in
// every step, and comes back; the rotation goes on under the next one, and the one
// that was away follows.
func TestARotationOutlivesItsLeaders(t *testing.T) {
	for _, at := range []time.Duration{0, 3 * time.Millisecond, 300 * time.Millisecond, 501 * time.Millisecond, 600 * time.Millisecond, time.Second, 2 * time.Second} {
		t.Run(at.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				ws := c.workers(2, ms[0])
				ms[0].ready(5)
				before := ms[0].root().GetCertificates()[0]
				ms[1].rotate(&controlv1.RotateRootRequest{})
				time.Sleep(at)
				ms[0].kill() // who founded the swarm leads
				c.until(2*time.Minute, "it waiting for the one that was killed, or being over", func() bool {
					left := ms[1].root().GetRotation().GetStragglers()
					return ms[1].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) || ms[1].inPhase(inRenew) && len(left) == 1 &&
						left[0].GetName() == ms[0].name && strings.HasPrefix(left[0].GetReason(), "down since")
				})
				ms[0].start()
				c.until(2*time.Minute, "the rotation's end", func() bool { return ms[1].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
				time.Sleep(10 * time.Second)
				after := ms[2].root().GetCertificates()[0]
				if string(after) == string(before) {
					t.Error("the root is the one of before")
				}
				c.onlyUnder(after, append(ms, ws...)...)
				ms[1].ready(5)
			})
		})
	}
}

// TestANodeThatWasAwayForTheWholeRotationFollows: it knows only the root of before,
// and every manager has a certificate of the next one. It is waited for, longer than
// the deadline.
func TestANodeThatWasAwayForTheWholeRotationFollows(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		ms[0].ready(5)
		ws[1].kill()
		c.until(time.Minute, "the node down", func() bool { return ms[0].nodes()[ws[1].name].GetNode().GetStatus().GetState() == down })
		ms[0].rotate(&controlv1.RotateRootRequest{Deadline: int64(2 * time.Minute)})
		c.until(time.Minute, "the others having renewed", func() bool { return ms[0].root().GetRotation().GetBehind() == 1 && ms[0].inPhase(inRenew) })
		time.Sleep(5 * time.Minute)
		if !ms[0].inPhase(inRenew) || len(ms[0].root().GetCertificates()) != 2 {
			t.Fatalf("after the deadline the root is %v", ms[0].root())
		}
		if cred, _ := ws[1].credential(); len(cred.Roots.DER()) != 1 {
			t.Fatal("the node knew more than the root of before")
		}
		ws[1].start()
		c.until(time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		time.Sleep(5 * time.Second)
		c.onlyUnder(ms[0].root().GetCertificates()[0], append(ms, ws...)...)
	})
}

// TestTokensFromBeforeARotationKeepTheirWord: during it and after it, as long as
// they count.
func TestTokensFromBeforeARotationKeepTheirWord(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		away := c.workers(1, ms[0])[0]
		ms[0].ready(4)
		made, record := ms[0].token(&controlv1.CreateTokenRequest{Uses: 20, Ttl: int64(3 * time.Hour)})
		expires := record.GetExpiresAt()
		standing := ms[0].standing()
		away.kill() // holds the rotation open
		joins := func(when string, tokens ...string) {
			t.Helper()
			for _, token := range tokens {
				for _, via := range ms {
					w := c.host("w" + strings.Repeat("x", len(c.hosts)))
					if _, err := w.ask(token, via); err != nil {
						t.Errorf("%s, by %s: %v", when, via.name, err)
					}
				}
			}
		}
		ms[0].rotate(&controlv1.RotateRootRequest{})
		joins("asked for", made)
		c.until(2*time.Minute, "all but one having renewed", func() bool { return ms[0].root().GetRotation().GetBehind() == 1 && ms[0].inPhase(inRenew) })
		joins("during it", made, standing, ms[1].standing())
		if ms[1].standing() != standing {
			t.Error("a token that is shown during a rotation does not name the root of before: an abort would end it")
		}
		away.start()
		c.until(2*time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		present := ms[0].standing()
		if present == standing {
			t.Error("the standing token still names the root of before")
		}
		joins("after it", made, standing, present)
		if former := ms[0].record().GetRoot().GetFormer(); len(former) != 1 || former[0].GetUntil() != expires {
			t.Errorf("the root of before is known as %v, want until the last token of it is over", former)
		}
	})
}

// standing is the standing token of workers.
func (h *host) standing() string {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asWorker})
	if err != nil {
		h.c.t.Fatal(err)
	}
	return resp.GetToken()
}

// TestAfterARotationTheFormerRootIsGoodForNothing: a node that did not follow is
// left behind at the deadline, with its name and the reason; and what the former root
// has signed, a manager's certificate as well, is refused by every manager and taken
// by no node, whoever shows it.
func TestAfterARotationTheFormerRootIsGoodForNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		ms[0].ready(5)
		user := ms[0].user("alice", asViewer, time.Hour)
		ws[1].kill()
		worker, _ := ws[1].credential()
		manager, _ := ms[2].credential()
		for _, m := range ms {
			if err := c.knock(m, worker); err != nil {
				t.Errorf("before it, %s refuses the worker: %v", m.name, err)
			}
		}
		ms[0].rotate(&controlv1.RotateRootRequest{Deadline: int64(5 * time.Minute), OnStraggler: quarantine})
		c.until(2*time.Minute, "all nodes but one having renewed", func() bool { r := ms[0].root().GetRotation(); return r.GetRenewed() == 4 && r.GetBehind() == 2 })
		for _, m := range ms {
			if err := c.knock(m, worker); err != nil {
				t.Errorf("during it, %s refuses the worker: %v", m.name, err)
			}
		}
		c.until(6*time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_QUARANTINED) })
		left := ms[1].root().GetLast()
		if s := left.GetStragglers(); len(s) != 2 || left.GetLeftBehind() != 2 || s[0].GetName() != ws[1].name || !strings.HasPrefix(s[0].GetReason(), "down since") || s[1].GetName() != "alice" {
			t.Errorf("left behind were %v", s)
		}
		time.Sleep(5 * time.Second)
		for _, m := range ms {
			for who, cred := range map[string]*ca.Credential{"worker": worker, "manager": manager} {
				if err := c.knock(m, cred); err == nil {
					t.Errorf("after it, %s takes the %s's certificate of the former root", m.name, who)
				}
			}
			cc := c.at(m, user)
			ctx, stop := c.within(5 * time.Second)
			if _, err := controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{}); err == nil {
				t.Errorf("after it, %s takes the user's certificate of the former root", m.name)
			}
			stop()
			_ = cc.Close()
		}
		// Nobody who trusts the present root takes it for a manager's either.
		held, _ := ws[0].credential()
		if _, err := held.Roots.Verify([]*x509.Certificate{manager.Leaf}, time.Now()); err == nil {
			t.Error("a worker takes a certificate of the former root for a manager's")
		}
		c.onlyUnder(ms[0].root().GetCertificates()[0], append(slices.Clone(ms), ws[0])...)
		// The one that was left behind comes back as a new node.
		ws[1].start()
		time.Sleep(30 * time.Second)
		if n := ms[0].nodes()[ws[1].name].GetNode(); n.GetStatus().GetState() == ready {
			t.Error("the node that was left behind is ready")
		}
		ctx, stop := c.within(30 * time.Second)
		defer stop()
		if _, err := ws[1].local().Leave(ctx, &localv1.LeaveRequest{Force: true}); err != nil {
			t.Fatal(err)
		}
		ws[1].join(ms[0], asWorker)
		c.until(10*time.Second, "it in the swarm again", func() bool { return ms[0].nodes()[ws[1].name].GetNode().GetStatus().GetState() == ready })
	})
}

// TestARotationIsAbortedWhenCertificatesOfTheNextRootAreOut: those are renewed under
// the root of before, and the other one is forgotten everywhere, its key first.
func TestARotationIsAbortedWhenCertificatesOfTheNextRootAreOut(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		ms[0].ready(5)
		before := ms[0].root().GetCertificates()[0]
		standing := ms[0].standing()
		ws[1].kill()
		ms[0].rotate(&controlv1.RotateRootRequest{})
		c.until(2*time.Minute, "all but one having renewed", func() bool { return ms[0].inPhase(inRenew) && ms[0].root().GetRotation().GetBehind() == 1 })
		newcomer := c.host("new")
		newcomer.join(ms[1], asWorker)
		ms[0].kill()
		ms[1].abortRotation(&controlv1.AbortRootRotationRequest{})
		if !ms[1].inPhase(inBack) && !ms[1].rotated(modelv1.RootOutcome_ROOT_OUTCOME_ABORTED) {
			t.Errorf("aborted, it is %v", ms[1].root().GetRotation())
		}
		c.until(2*time.Minute, "the others being back", func() bool { r := ms[1].root().GetRotation(); return r.GetBehind() == 1 })
		ws[1].start()
		ms[0].start()
		c.until(2*time.Minute, "the rotation's end", func() bool { return ms[1].rotated(modelv1.RootOutcome_ROOT_OUTCOME_ABORTED) })
		time.Sleep(10 * time.Second)
		c.onlyUnder(before, append(append(slices.Clone(ms), ws...), newcomer)...)
		if ms[1].standing() != standing {
			t.Error("the standing token is another")
		}
		late := c.host("late")
		if _, err := late.ask(standing, ms[0]); err != nil {
			t.Errorf("the token that was shown before it: %v", err)
		}
	})
}

// TestARotationIsReplacedByAnother: while certificates of the root that is given up
// are out. Who was away knows the root of before only, and follows all the same.
func TestARotationIsReplacedByAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ws := c.workers(2, ms[0])
		ms[0].ready(5)
		ws[1].kill()
		ms[0].rotate(&controlv1.RotateRootRequest{})
		c.until(2*time.Minute, "all but one having renewed", func() bool { return ms[0].inPhase(inRenew) && ms[0].root().GetRotation().GetBehind() == 1 })
		given := ms[0].root().GetRotation().GetTarget()
		if resp := ms[0].rotate(&controlv1.RotateRootRequest{Replace: true}); resp.GetJoined() || string(resp.GetRoot().GetRotation().GetTarget()) == string(given) {
			t.Errorf("replaced, it is %v", resp.GetRoot().GetRotation())
		}
		c.until(3*time.Minute, "all but one having renewed again", func() bool { return ms[0].inPhase(inRenew) && ms[0].root().GetRotation().GetBehind() == 1 })
		ws[1].start()
		c.until(2*time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		time.Sleep(10 * time.Second)
		after := ms[0].root().GetCertificates()[0]
		if string(after) == string(given) {
			t.Error("the root is the one that was given up")
		}
		c.onlyUnder(after, append(slices.Clone(ms), ws...)...)
	})
}

// TestAUserFollowsARotation: who uses a context learns the next root by that, renews
// under it, however young the certificate is, and is waited for until then.
func TestAUserFollowsARotation(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		who := ms[0].list(ms[0].user("alice", asViewer, 20*24*time.Hour))
		ms[0].rotate(&controlv1.RotateRootRequest{})
		c.until(time.Minute, "all nodes having renewed", func() bool { r := ms[0].root().GetRotation(); return r.GetRenewed() == 3 && r.GetBehind() == 1 })
		if s := ms[0].root().GetRotation().GetStragglers()[0]; s.GetName() != "alice" || !strings.Contains(s.GetReason(), "ctl user renew") {
			t.Errorf("the straggler is %v", s)
		}
		ctx, stop := c.within(time.Minute)
		defer stop()
		var said bytes.Buffer
		streams := say.Streams{Out: io.Discard, Err: &said}
		api := ctl.New(streams.Filled(), ctl.Managers(who)).Through(ctl.Remote{Who: who, Dial: c.net.stack("10.0.0.99").dial})
		if n, err := look(ctx, api); err != nil || n != 3 || !strings.Contains(said.String(), "renew it with ctl user renew") {
			t.Errorf("ctl sees %d nodes, %v, and says %q", n, err, said.String())
		}
		api.Close()
		cc := c.at(ms[1], who) // who trusts the root of before only
		resp, err := controlv1.NewControlClient(cc).ListManagers(ctx, &controlv1.ListManagersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		who, changed := who.Learn(resp, ms[1].port(), true, time.Now())
		if roots := who.Credential.Roots.DER(); !changed || len(roots) != 2 {
			t.Errorf("the context knows %d roots", len(roots))
		}
		key, err := ca.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ca.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		issued, err := controlv1.NewControlClient(cc).RenewUser(ctx, &controlv1.RenewUserRequest{RequestId: requestID(), Csr: csr})
		if err != nil {
			t.Fatal(err)
		}
		_ = cc.Close()
		if who, err = who.Renewed(issued.GetIssued(), key, time.Now()); err != nil {
			t.Fatal(err)
		}
		c.until(time.Minute, "the rotation's end", func() bool { return ms[0].rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		time.Sleep(5 * time.Second)
		for _, m := range ms {
			cc := c.at(m, who)
			if _, err := controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{}); err != nil {
				t.Errorf("after it, %s: %v", m.name, err)
			}
			_ = cc.Close()
		}
	})
}

// TestABackupOfARotationIsRestored: with its key and its way, and the rotation goes
// on there.
func TestABackupOfARotationIsRestored(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(1, nil)
		w := c.workers(1, ms[0])[0]
		ms[0].ready(2)
		standing := ms[0].standing()
		w.kill()
		ms[0].rotate(&controlv1.RotateRootRequest{})
		c.until(2*time.Minute, "all but one having renewed", func() bool { return ms[0].inPhase(inRenew) && ms[0].root().GetRotation().GetBehind() == 1 })
		data := ms[0].mustBackup()
		ms[0].kill()
		r := c.host("r")
		r.mustRestore(data, true)
		if !r.inPhase(inRenew) {
			t.Fatalf("restored, the rotation is %v", r.root().GetRotation())
		}
		late := c.host("late")
		if _, err := late.ask(standing, r); err != nil {
			t.Errorf("a token that pins the root of before: %v", err)
		}
		w.start()
		w.mustJoinAgain(standing, r)
		ctx, stop := c.within(30 * time.Second)
		defer stop()
		for name, n := range r.nodes() {
			if name == ms[0].name {
				id := mustID(t, n.GetNode().GetId()).String()
				if _, err := r.control().RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: id, Force: true}); err != nil {
					t.Logf("the manager that is gone: %v", err)
				}
			}
		}
		c.until(2*time.Minute, "the rotation's end", func() bool { return r.rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) })
		time.Sleep(5 * time.Second)
		c.onlyUnder(r.root().GetCertificates()[0], r, w, late)
	})
}
