package condemn

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	manager = modelv1.Role_ROLE_MANAGER
	worker  = modelv1.Role_ROLE_WORKER
)

// A world is a swarm of three managers on paper, of which membership, rekey and
// rotation do what they are told to.
type world struct {
	*testing.T
	*Keeper
	store *store.Store
	log   *storetest.Log
	// refuse is what a rotation is refused with.
	refuse error
	asked  []*controlv1.RotateRootRequest
}

func num(n byte) []byte { return id.ID{15: n}.Bytes() }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	var db *store.DB
	w.store, db, w.log = storetest.New()
	w.Keeper = New(Config{
		Store: w.store, Log: slog.New(slog.DiscardHandler),
		Update: func(ctx context.Context, fn func(*store.Tx) error) error {
			_, err := db.Update(ctx, nil, fn)
			return err
		},
		Revoke: func(tx *store.Tx, x id.ID, reason string) error {
			k := proto.CloneOf(tx.Token(x))
			k.End, k.EndReason = modelv1.TokenEnd_TOKEN_END_REVOKED, reason
			return tx.PutToken(k)
		},
		Rotate: w.rotate,
	})
	c := &modelv1.Cluster{
		Id: num(99), Spec: &modelv1.ClusterSpec{Autolock: true}, WorkerToken: []byte("w"), ManagerToken: []byte("m"), PreviousWorkerToken: []byte("p"), PreviousUntil: 9,
		UnlockKey: []byte("k"), UnlockNumber: 4, DataKey: &modelv1.DataKey{Active: 2, Settled: true},
		Root: &modelv1.RootCA{Certificates: [][]byte{[]byte("first")}, Key: []byte("s"), Via: [][]byte{[]byte("x"), []byte("y")}},
	}
	for n := byte(1); n <= 3; n++ {
		c.KeyHolders = append(c.KeyHolders, &modelv1.KeyHolder{Node: num(n), Kept: 2})
		w.do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: num(n), Role: manager, Spec: &modelv1.NodeSpec{Role: manager}}}},
			&logv1.Operation{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{RaftId: uint64(n), Node: num(n), Voter: true, Address: "x:1"}}})
	}
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
	return w
}

// rotate begins a rotation to a root that is called after how many there were.
func (w *world) rotate(_ context.Context, _ *modelv1.Cluster, msg *controlv1.RotateRootRequest) (func(*modelv1.Cluster, string, int64) error, error) {
	if w.refuse != nil {
		return nil, w.refuse
	}
	w.asked = append(w.asked, msg)
	return func(c *modelv1.Cluster, by string, _ int64) error {
		next := []byte{'n', byte(len(w.asked))}
		c.Root.Rotation = &modelv1.RootRotation{Id: msg.GetRequestId(), By: by,
			From: &modelv1.RootKey{Certificate: c.GetRoot().GetCertificates()[0]}, To: &modelv1.RootKey{Certificate: next}}
		c.Root.Certificates = append(c.GetRoot().GetCertificates(), next)
		return nil
	}, nil
}

func (w *world) do(ops ...*logv1.Operation) {
	w.Helper()
	if err := w.log.Do(ops...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) cluster() *modelv1.Cluster { return w.store.Snapshot().Cluster() }

func (w *world) edit(change func(*modelv1.Cluster)) {
	w.Helper()
	c := proto.CloneOf(w.cluster())
	change(c)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
}

func (w *world) begin(n byte, msg *controlv1.CondemnNodeRequest) (joined bool) {
	w.Helper()
	msg.RequestId = num(50 + n)
	w.edit(func(c *modelv1.Cluster) {
		joined = Begin(c, &modelv1.Condemned{Node: num(n), Name: "m" + string('0'+n), Remove: msg.GetRemove()}, msg, "somebody", 1)
	})
	return joined
}

// takeOut does what membership does of a manager that is to be a worker.
func (w *world) takeOut(n byte) {
	w.do(&logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: store.KindMember, Key: store.MemberKey(uint64(n))}}},
		&logv1.Operation{Op: &logv1.Operation_NodeRole{NodeRole: &logv1.NodeRole{Node: num(n), Role: worker}}})
}

// reseal does what rekey does of stale keys.
func (w *world) reseal() {
	w.edit(func(c *modelv1.Cluster) {
		stale := max(c.GetDataKey().GetActive(), c.GetDataKey().GetOffered(), c.GetDataKey().GetStale())
		c.DataKey = &modelv1.DataKey{Active: stale + 1, Stale: stale, Settled: true}
	})
}

// followed ends the rotation that is under way.
func (w *world) followed(left ...*modelv1.RootStraggler) {
	w.edit(func(c *modelv1.Cluster) {
		r := c.GetRoot().GetRotation()
		c.Root.Certificates, c.Root.Rotation = [][]byte{r.GetTo().GetCertificate()}, nil
		c.Root.Former = []*modelv1.FormerRoot{{Certificate: r.GetFrom().GetCertificate()}}
		c.Root.Last = &modelv1.RootRotationEnd{Id: r.GetId(), Stragglers: left, LeftBehind: uint64(len(left))}
	})
}

// steps takes steps until there is none, and fails unless they lead there.
func (w *world) steps(to modelv1.CondemnationStep) {
	w.Helper()
	for plan(w.store.Snapshot()) != wait {
		if err := w.Step(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
	if at := w.cluster().GetCondemnation().GetStep(); at != to {
		w.Fatalf("it is at %v, want %v", at, to)
	}
}

func TestStepsOfACondemnation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := byte(0); n < 25; n++ {
		w.do(&logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: &modelv1.JoinToken{Id: num(100 + n), SecretHash: bytes.Repeat([]byte{n}, 32), Uses: 1}}})
	}
	if w.steps(0); len(liveTokens(w.store.Snapshot(), 99)) != 25 {
		t.Fatal("tokens are revoked that nobody condemned")
	}
	w.begin(2, &controlv1.CondemnNodeRequest{Remove: true})
	c := w.cluster()
	if x := c.GetCondemnation(); x.GetDeadline() != int64(Deadline) || x.GetOnStraggler() != quarantine || x.GetBy() != "somebody" {
		t.Errorf("begun: %v", x)
	}
	if len(c.GetWorkerToken())+len(c.GetManagerToken())+len(c.GetPreviousWorkerToken()) > 0 || c.GetPreviousUntil() != 0 {
		t.Error("standing tokens count on")
	}
	w.steps(out)
	if n := len(liveTokens(w.store.Snapshot(), 99)); n > 0 {
		t.Errorf("%d tokens count on", n)
	}
	w.takeOut(2)
	w.steps(dataKey)
	c = w.cluster()
	if w.store.Snapshot().Node(id.ID{15: 2}) != nil || c.GetDataKey().GetStale() != 2 || len(c.GetKeyHolders()) != 2 || string(c.GetUnlockKey()) != "k" || len(w.asked) > 0 {
		t.Errorf("taken out: %v", c)
	}
	w.reseal()
	w.steps(root)
	c = w.cluster()
	if string(c.GetUnlockKey()) == "k" || c.GetUnlockNumber() != 5 || !c.GetCondemnation().GetRelocked() || len(w.asked) != 1 || w.asked[0].GetReplace() ||
		w.asked[0].GetDeadline() != int64(Deadline) || w.asked[0].GetOnStraggler() != quarantine || c.GetRoot().GetRotation().GetBy() != "somebody" {
		t.Errorf("resealed: %v, asked for %v", c, w.asked)
	}
	if len(c.GetWorkerToken()) > 0 {
		t.Error("there are standing tokens while the former root is trusted")
	}
	w.followed(&modelv1.RootStraggler{Name: "w9"})
	w.steps(0)
	c = w.cluster()
	if len(c.GetWorkerToken()) == 0 || len(c.GetManagerToken()) == 0 || len(c.GetRoot().GetFormer())+len(c.GetRoot().GetVia()) > 0 {
		t.Errorf("at the end: %v", c)
	}
	if e := c.GetCondemned(); e.GetLeftBehind() != 1 || e.GetStragglers()[0].GetName() != "w9" || !e.GetRelocked() || !bytes.Equal(e.GetId(), num(52)) || e.GetNodes()[0].GetName() != "m2" {
		t.Errorf("how it ended: %v", e)
	}
}

func TestNoKeyIsDrawnThatTheCondemnedCouldRead(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]*modelv1.DataKey{
		"the one they have":             {Active: 2, Settled: true},
		"one that was given to them":    {Active: 3, Stale: 3, Settled: true},
		"another is offered":            {Active: 3, Stale: 2, Offered: 4, Settled: true},
		"entries may still be on a way": {Active: 3, Stale: 2},
	} {
		w := newWorld(t)
		w.begin(2, &controlv1.CondemnNodeRequest{})
		w.takeOut(2)
		w.steps(dataKey)
		w.edit(func(c *modelv1.Cluster) { c.DataKey = d })
		if w.steps(dataKey); len(w.asked) > 0 || string(w.cluster().GetUnlockKey()) != "k" {
			t.Errorf("%s: keys were drawn", name)
		}
		w.reseal()
		w.steps(root)
	}
	// One that is made a holder again by an entry that was late.
	w := newWorld(t)
	w.begin(2, &controlv1.CondemnNodeRequest{})
	w.takeOut(2)
	w.steps(dataKey)
	w.edit(func(c *modelv1.Cluster) { c.KeyHolders = append(c.KeyHolders, &modelv1.KeyHolder{Node: num(2)}) })
	w.reseal()
	w.steps(dataKey)
}

func TestADataKeyThatWasReplacedSinceIsNotReplacedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.begin(2, &controlv1.CondemnNodeRequest{})
	w.takeOut(2)
	w.edit(func(c *modelv1.Cluster) { // as rekey does, which sees it first
		c.KeyHolders = slices.Delete(c.GetKeyHolders(), 1, 2)
		store.StaleKeys(c, "it is no manager any more")
	})
	w.reseal()
	w.steps(root)
	if at := w.cluster().GetDataKey().GetActive(); at != 3 {
		t.Errorf("the data key is %d, want 3", at)
	}
}

func TestAnotherNodeBeginsAnewAndTheSameOneJoins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if w.begin(2, &controlv1.CondemnNodeRequest{}) {
		t.Error("joined what was not")
	}
	w.takeOut(2)
	w.steps(dataKey)
	w.reseal()
	w.steps(root)
	if !w.begin(2, &controlv1.CondemnNodeRequest{Remove: true, Deadline: 77}) {
		t.Error("the same node was not joined")
	}
	x := w.cluster().GetCondemnation()
	if w.steps(root); x.GetDeadline() != 77 || !x.GetNodes()[0].GetRemove() || len(x.GetNodes()) != 1 {
		t.Errorf("joined: %v", x)
	}
	w.begin(3, &controlv1.CondemnNodeRequest{})
	w.steps(out)
	w.takeOut(3)
	w.steps(dataKey)
	w.reseal()
	w.steps(root)
	if len(w.asked) != 2 || !w.asked[1].GetReplace() || w.cluster().GetUnlockNumber() != 6 {
		t.Errorf("the second has seen the first root that was to follow, and the unlock key: asked for %v", w.asked)
	}
	for _, der := range [][]byte{[]byte("first"), {'n', 1}} {
		if d := ca.RootDigest(der); !owns(w.cluster().GetCondemnation(), d[:]) {
			t.Errorf("root %q is not known to be known", der)
		}
	}
	w.followed()
	w.steps(0)
	if n := len(w.cluster().GetCondemned().GetNodes()); n != 2 {
		t.Errorf("it ended for %d nodes", n)
	}
}

func TestARotationThatCameToNothingIsBegunAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.begin(2, &controlv1.CondemnNodeRequest{})
	w.takeOut(2)
	w.steps(dataKey)
	w.reseal()
	w.refuse = errors.New("no room for another root")
	if err := w.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "no room for another root") {
		t.Errorf("refused: %v", err)
	}
	w.refuse = nil
	w.steps(root)
	w.edit(func(c *modelv1.Cluster) { c.Root.Certificates, c.Root.Rotation = [][]byte{[]byte("first")}, nil })
	w.steps(root)
	if len(w.asked) != 2 || w.cluster().GetRoot().GetRotation() == nil || w.cluster().GetUnlockNumber() != 5 {
		t.Errorf("asked for %v; the unlock key is number %d", w.asked, w.cluster().GetUnlockNumber())
	}
}

func TestARootWhoseKeyIsElsewhereStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(func(c *modelv1.Cluster) {
		c.Root.Key, c.Root.Last = nil, &modelv1.RootRotationEnd{LeftBehind: 3}
	})
	w.begin(2, &controlv1.CondemnNodeRequest{})
	w.takeOut(2)
	w.steps(dataKey)
	w.reseal()
	w.steps(0)
	c := w.cluster()
	if len(w.asked) > 0 || c.GetUnlockNumber() != 5 || len(c.GetWorkerToken()) == 0 || string(c.GetRoot().GetCertificates()[0]) != "first" || c.GetCondemned().GetLeftBehind() > 0 {
		t.Errorf("it ended with %v, asked for %v", c, w.asked)
	}
}

func TestASwarmThatWantsNoTokensAndNoLockGetsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(func(c *modelv1.Cluster) {
		c.Spec, c.UnlockKey, c.WorkerToken, c.ManagerToken = &modelv1.ClusterSpec{NoStandingTokens: true}, nil, nil, nil
	})
	w.begin(2, &controlv1.CondemnNodeRequest{})
	w.takeOut(2)
	w.steps(dataKey)
	w.reseal()
	w.steps(root)
	w.followed()
	w.steps(0)
	if c := w.cluster(); len(c.GetWorkerToken())+len(c.GetManagerToken())+len(c.GetUnlockKey()) > 0 || c.GetCondemned().GetRelocked() || c.GetUnlockNumber() != 4 {
		t.Errorf("it got %v", c)
	}
}
