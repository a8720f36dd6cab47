package rotation

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	isDown = modelv1.NodeState_NODE_STATE_DOWN
	isUp   = modelv1.NodeState_NODE_STATE_READY

	quarantines = modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE
)

// A world is a cluster on paper: its nodes do what the record wants when they are
// told to.
type world struct {
	*testing.T
	id    id.ID
	store *store.Store
	log   *storetest.Log
	roots [][]byte // as they were made, the founding one first
	now   time.Time
}

func num(n byte) []byte { return id.ID{15: n}.Bytes() }

func newWorld(t *testing.T, managers, workers byte) *world {
	t.Helper()
	w := &world{T: t, id: id.New(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	w.store, _, w.log = storetest.New()
	root, key, err := issue.NewRoot(w.id, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.roots = [][]byte{root}
	w.put(&modelv1.Cluster{Id: w.id.Bytes(), Spec: &modelv1.ClusterSpec{}, WorkerToken: []byte("w"),
		Root: &modelv1.RootCA{Certificates: [][]byte{root}, Key: key.Reveal()}})
	for n := byte(1); n <= managers+workers; n++ {
		w.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: num(n), Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED,
			Spec: &modelv1.NodeSpec{}, Current: w.cert(1, root), Status: &modelv1.NodeStatus{State: isUp, Shown: 1, Session: 1},
			Description: &modelv1.NodeDescription{Hostname: fmt.Sprintf("n%d", n)}}}})
		if n <= managers {
			w.do(&logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: uint64(n), Node: num(n), Voter: true, Address: "x:1"}}})
		}
	}
	return w
}

func (w *world) cert(generation uint64, root []byte) *modelv1.Certificate {
	issuer := ca.RootDigest(root)
	return &modelv1.Certificate{Generation: generation, Issuer: issuer[:], NotAfter: math.MaxInt64}
}

func (w *world) do(ops ...*logv1.Operation) {
	w.Helper()
	if err := w.log.Do(ops...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) put(c *modelv1.Cluster) {
	w.Helper()
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
}

func (w *world) root() *modelv1.RootCA { return w.store.Snapshot().Cluster().GetRoot() }

// edit changes the record of a node, and what is seen of it.
func (w *world) edit(n byte, change func(*modelv1.Node)) {
	w.Helper()
	x := proto.CloneOf(w.store.Snapshot().Node(id.ID{15: n}))
	change(x)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: proto.CloneOf(x)}},
		&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: x.GetId(), Status: x.GetStatus(), Description: x.GetDescription()}}})
}

// trust has a node say that it trusts what there is to trust.
func (w *world) trust(n byte) {
	w.edit(n, func(x *modelv1.Node) {
		b, err := ca.ParseBundle(w.root().GetCertificates())
		if err != nil {
			w.Fatal(err)
		}
		d := b.Digest()
		x.Description.Trusts = d[:]
	})
}

// certify records another certificate of the root that signs; show has the node
// open a session with it.
func (w *world) certify(n byte) {
	w.edit(n, func(x *modelv1.Node) {
		x.Previous, x.Current = x.GetCurrent(), w.cert(x.GetCurrent().GetGeneration()+1, w.root().GetCertificates()[0])
	})
}

func (w *world) show(n byte) {
	w.edit(n, func(x *modelv1.Node) { x.Status.Shown = x.GetCurrent().GetGeneration() })
}

func (w *world) follow(nodes ...byte) {
	for _, n := range nodes {
		w.trust(n)
		w.certify(n)
		w.show(n)
	}
}

// begin asks for a rotation as control does.
func (w *world) begin(msg *controlv1.RotateRootRequest) error {
	w.Helper()
	c := proto.CloneOf(w.store.Snapshot().Cluster())
	if msg.GetRequestId() == nil {
		msg.RequestId = id.New().Bytes()
	}
	from, err := From(c, msg)
	if err != nil {
		return err
	}
	next := Next{From: from}
	if from != nil {
		der, key, err := issue.NextRoot(w.id, w.now.Add(time.Duration(len(w.roots))*time.Second))
		if err != nil {
			w.Fatal(err)
		}
		next.To, next.Cross = &modelv1.RootKey{Certificate: der, Key: key.Reveal(), Via: ca.Via([]ca.Former{{Root: from.GetCertificate(), Cross: []byte("cross")}})}, []byte("cross")
		w.roots = append(w.roots, der)
	}
	if err := Begin(c, msg, next, "somebody", w.now.UnixNano()); err != nil {
		return err
	}
	w.put(c)
	return nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// step takes the next step there is, and returns what it says.
func (w *world) step() string {
	w.Helper()
	s := plan(w.store.Snapshot(), w.now)
	if s.change != nil {
		c := proto.CloneOf(w.store.Snapshot().Cluster())
		s.change(c)
		w.put(c)
	}
	return s.says
}

// is fails unless the roots are so, the one that signs first; a phase of 0 is the
// end.
func (w *world) is(phase modelv1.RootPhase, trusted ...int) {
	w.Helper()
	var want [][]byte
	for _, n := range trusted {
		want = append(want, w.roots[n])
	}
	r := w.root()
	if r.GetRotation().GetPhase() != phase || !slices.EqualFunc(r.GetCertificates(), want, bytes.Equal) {
		w.Fatalf("phase %v with %d roots, want %v with %v", r.GetRotation().GetPhase(), len(r.GetCertificates()), phase, trusted)
	}
	if key := ca.RootDigest(want[0]); store.Signer(r) != key {
		w.Error("another root signs")
	}
	if _, err := issue.New(r.GetCertificates(), sealed.NewSecret(r.GetKey())); err != nil {
		w.Errorf("the key is not that of the root that signs: %v", err)
	}
}

func TestStepsOfARotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 1)
	founding := bytes.Clone(w.root().GetKey())
	if says := w.step(); says != "" {
		t.Fatalf("without a rotation: %s", says)
	}
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	w.is(trusts, 0, 1)
	for n := byte(1); n <= 4; n++ {
		if says := w.step(); says != "" {
			t.Fatalf("with node %d not told: %s", n, says)
		}
		w.trust(n)
	}
	w.step()
	w.is(renews, 1, 0)
	if v := w.root().GetVia(); len(v) != 2 || w.root().GetRotation().GetSpread() != int64(4*perNode) {
		t.Errorf("with each leaf go %d certificates, over %v", len(v), w.root().GetRotation().GetSpread())
	}
	for n := byte(1); n <= 4; n++ {
		w.certify(n)
		if says := w.step(); says != "" {
			t.Fatalf("node %d was given a certificate and did not show it: %s", n, says)
		}
		w.show(n)
	}
	w.step()
	w.is(0, 1)
	r := w.root()
	if r.GetLast().GetOutcome() != modelv1.RootOutcome_ROOT_OUTCOME_DONE || r.GetTrust() != 3 || len(r.GetFormer()) != 1 || r.GetFormer()[0].GetUntil() != w.now.Add(overlap).UnixNano() {
		t.Errorf("at the end %v", r.GetLast())
	}
	if data, err := proto.Marshal(w.store.Snapshot().Cluster()); err != nil || bytes.Contains(data, founding) {
		t.Errorf("the former key is kept (%v)", err)
	}
	w.now = w.now.Add(overlap - 1)
	if says := w.step(); says != "" {
		t.Errorf("while tokens name the former root: %s", says)
	}
	w.now = w.now.Add(1)
	w.step()
	if r := w.root(); len(r.GetFormer())+len(r.GetVia()) > 0 {
		t.Errorf("the former root is known as %v", r.GetFormer())
	}
}

func TestWhoIsNotConnectedDoesNotHoldUpTheNextRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	w.edit(3, func(n *modelv1.Node) { n.Status.State = isDown })
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	w.trust(1)
	if says := w.step(); says != "" {
		t.Fatalf("with a connected node not told: %s", says)
	}
	w.now = w.now.Add(patience)
	w.step()
	w.is(renews, 1, 0) // who says nothing holds it up for a minute only
}

func TestTheDeadline(t *testing.T) {
	t.Parallel()
	for _, policy := range []modelv1.StragglerPolicy{0, quarantines} {
		w := newWorld(t, 3, 1)
		w.edit(4, func(n *modelv1.Node) { n.Status.State, n.Status.LostSince = isDown, w.now.UnixNano() })
		w.must(w.begin(&controlv1.RotateRootRequest{Deadline: int64(time.Hour), OnStraggler: policy}))
		w.now = w.now.Add(patience)
		w.step()
		w.follow(1, 2)
		w.now = w.now.Add(time.Hour)
		if policy == quarantines {
			w.edit(2, func(n *modelv1.Node) { n.Status.Shown = 1 })
			if says := w.step(); says != "" {
				t.Fatalf("with two of three managers behind: %s", says)
			}
			w.show(2)
			w.step()
			w.is(0, 1)
			left := w.root().GetLast()
			if left.GetOutcome() != modelv1.RootOutcome_ROOT_OUTCOME_QUARANTINED || left.GetLeftBehind() != 2 || left.GetStragglers()[1].GetName() != "n4" {
				t.Errorf("left behind: %v", left)
			}
			// Who was left behind does not hold up the next one.
			w.must(w.begin(&controlv1.RotateRootRequest{}))
			w.trust(1)
			w.trust(2)
			w.step()
			w.follow(1, 2)
			w.step()
			w.is(0, 2)
			continue
		}
		if says := w.step(); says != "" {
			t.Fatalf("it is to wait: %s", says)
		}
		w.is(renews, 1, 0)
		w.must(w.begin(&controlv1.RotateRootRequest{OnStraggler: quarantines})) // the operator decides
		w.follow(3)
		w.step()
		w.is(0, 1)
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	abort := func(w *world) {
		c := proto.CloneOf(w.store.Snapshot().Cluster())
		w.must(Abort(c, &controlv1.AbortRootRotationRequest{}, w.now.UnixNano()))
		w.put(c)
	}
	// Before the next root signs nothing is to be undone, whoever is down.
	w := newWorld(t, 1, 2)
	w.edit(3, func(n *modelv1.Node) { n.Status.State = isDown })
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	w.trust(1)
	abort(w)
	w.is(back, 0, 1)
	w.step()
	w.is(0, 0)
	// After that, whoever has a certificate of it, or may have, is waited for.
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	w.now = w.now.Add(patience)
	w.step()
	w.follow(1)
	w.certify(2)
	abort(w)
	if k := w.root().GetRotation().GetTo().GetKey(); len(k) > 0 {
		t.Error("the key that is given up is kept")
	}
	w.is(back, 0, 2)
	if v := View(w.store.Snapshot()).GetRotation(); v.GetBehind() != 1 || v.GetStragglers()[0].GetName() != "n1" {
		t.Errorf("behind are %v", v.GetStragglers())
	}
	w.follow(1)
	w.step()
	w.is(0, 0)
	if r := w.root(); r.GetLast().GetOutcome() != modelv1.RootOutcome_ROOT_OUTCOME_ABORTED || len(r.GetVia())+len(r.GetFormer()) > 0 {
		t.Errorf("at the end %v", r.GetLast())
	}
	c := proto.CloneOf(w.store.Snapshot().Cluster())
	if err := Abort(c, &controlv1.AbortRootRotationRequest{}, 0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a rotation: %v", err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 0)
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	w.must(w.begin(&controlv1.RotateRootRequest{Replace: true}))
	w.is(trusts, 0, 2) // the first of them has signed nothing
	w.trust(1)
	w.step()
	w.follow(1)
	w.must(w.begin(&controlv1.RotateRootRequest{Replace: true}))
	w.is(trusts, 2, 0, 3)
	for len(w.root().GetCertificates()) < ca.MaxRoots {
		w.trust(1)
		w.step()
		w.must(w.begin(&controlv1.RotateRootRequest{Replace: true}))
	}
	w.trust(1)
	w.step()
	if err := w.begin(&controlv1.RotateRootRequest{Replace: true}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one root too many: %v", err)
	}
	w.follow(1)
	w.step()
	w.is(0, len(w.roots)-1)
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 0)
	c := proto.CloneOf(w.store.Snapshot().Cluster())
	c.DataKey = &modelv1.DataKey{Active: 1, Stale: 1, Reason: "a manager was demoted"}
	if _, err := From(c, &controlv1.RotateRootRequest{}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "a manager was demoted") {
		t.Errorf("while the data key is replaced: %v", err)
	}
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	if err := w.begin(&controlv1.RotateRootRequest{Certificate: []byte("another")}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another root: %v", err)
	}
	w.must(w.begin(&controlv1.RotateRootRequest{Certificate: w.roots[1]}))
	c = proto.CloneOf(w.store.Snapshot().Cluster())
	w.must(Abort(c, &controlv1.AbortRootRotationRequest{}, 0))
	if _, err := From(c, &controlv1.RotateRootRequest{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("while it is aborted: %v", err)
	}
	if err := Begin(c, &controlv1.RotateRootRequest{Replace: true}, Next{}, "", 0); !errdefs.IsAborted(err) {
		t.Errorf("from another state: %v", err)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 5)
	w.must(w.begin(&controlv1.RotateRootRequest{}))
	if s := View(w.store.Snapshot()).GetRotation().GetStragglers(); len(s) != 6 || s[0].GetReason() != "connected, but it has not taken the next root to trust" {
		t.Errorf("before it signs: %v", s)
	}
	w.now = w.now.Add(patience)
	w.step()
	w.edit(1, func(n *modelv1.Node) {
		n.Status = &modelv1.NodeStatus{State: isDown, LostSince: w.now.UnixNano(), Message: "no beat"}
	})
	w.edit(2, func(n *modelv1.Node) { n.Status = &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_UNKNOWN} })
	w.edit(3, func(n *modelv1.Node) {
		n.Status = &modelv1.NodeStatus{State: isDown, Farewell: modelv1.Farewell_FAREWELL_LEAVING}
	})
	w.edit(4, func(n *modelv1.Node) {
		n.Status = proto.CloneOf(n.GetStatus())
		n.Status.ClockAhead, n.Status.ClockBy = -int64(3*time.Hour), num(1)
	})
	w.trust(4)
	w.trust(5)
	w.certify(5)
	w.edit(6, func(n *modelv1.Node) { n.Membership, n.Current = modelv1.Membership_MEMBERSHIP_PENDING, nil })
	w.do(&logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: &modelv1.User{Id: num(9), Name: "alice", Current: w.cert(1, w.roots[0])}}},
		&logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: &modelv1.User{Id: num(10), Name: "bob", Current: &modelv1.Certificate{Generation: 1, NotAfter: 1}}}})
	v := View(w.store.Snapshot()).GetRotation()
	want := []string{"down since 2026-01-02T03:05:05Z: no beat", "it was never heard since it joined", "it has left the swarm", "connected, but it has not renewed its certificate; its clock is 3h0m0s behind the swarm's, by what manager 0000", "connected, but not yet with the certificate that it was given"}
	if v.GetNodes() != 5 || v.GetTrusting() != 2 || v.GetRenewed() != 0 || v.GetUsers() != 1 || v.GetBehind() != 6 {
		t.Errorf("counted %v", v)
	}
	for i, s := range v.GetStragglers() {
		if i < len(want) && !strings.HasPrefix(s.GetReason(), want[i]) {
			t.Errorf("%s: %q, want %q", s.GetName(), s.GetReason(), want[i])
		}
	}
}

// TestARootOutsideHasNoKeyHere: when it has taken over, there is a key in the record no
// more, and only the one that it is asked with.
func TestARootOutsideHasNoKeyHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 0)
	founding := bytes.Clone(w.root().GetKey())
	der, _, err := issue.NextRoot(w.id, w.now.Add(time.Hour))
	w.must(err)
	at := []*modelv1.ExternalCA{{Url: "https://one:8888", AuthKey: []byte("hidden")}}
	c := proto.CloneOf(w.store.Snapshot().Cluster())
	if err := Move(c, at); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a root of the swarm's own was moved: %v", err)
	}
	msg := &controlv1.RotateRootRequest{RequestId: id.New().Bytes(), Certificate: der, External: at}
	from, err := From(c, msg)
	w.must(err)
	w.must(Begin(c, msg, Next{From: from, To: &modelv1.RootKey{Certificate: der, External: at, Given: true}, Cross: []byte("cross")}, "somebody", w.now.UnixNano()))
	w.put(c)
	if len(w.root().GetExternal()) > 0 || len(w.root().GetKey()) == 0 {
		t.Error("it signs before it is trusted")
	}
	w.trust(1)
	w.step()
	if r := w.root(); len(r.GetExternal()) != 1 || len(r.GetKey()) > 0 {
		t.Errorf("it signs at %v", r.GetExternal())
	}
	// Aborted, the root of before signs here again, and what the other was asked with is
	// forgotten.
	back := proto.CloneOf(w.store.Snapshot().Cluster())
	w.must(Abort(back, &controlv1.AbortRootRotationRequest{}, w.now.UnixNano()))
	if data, err := proto.Marshal(back); err != nil || bytes.Contains(data, []byte("hidden")) || len(back.GetRoot().GetKey()) == 0 {
		t.Errorf("aborted, it has a key of %d bytes (%v)", len(back.GetRoot().GetKey()), err)
	}
	w.follow(1)
	w.step()
	data, err := proto.Marshal(w.store.Snapshot().Cluster())
	if w.must(err); bytes.Contains(data, founding) || w.root().GetRotation() != nil {
		t.Error("the former key is kept")
	}
	moved := proto.CloneOf(w.store.Snapshot().Cluster())
	w.must(Move(moved, []*modelv1.ExternalCA{{Url: "https://two:8888"}}))
	if got := moved.GetRoot().GetExternal(); len(got) != 1 || got[0].GetUrl() != "https://two:8888" {
		t.Errorf("moved to %v", got)
	}
}
