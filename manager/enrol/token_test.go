package enrol_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// token makes a join token of the cluster: a worker's, for an hour and one use.
func (w *world) token(t *testing.T, change func(*modelv1.JoinToken)) (ca.Token, id.ID) {
	t.Helper()
	tok, x := ca.Token{Digest: ca.RootDigest(w.root), Secret: ca.NewTokenSecret()}, id.New()
	hash := sha256.Sum256(tok.Secret.Reveal())
	w.update(t, func(tx *store.Tx) error {
		v := &modelv1.JoinToken{Id: x.Bytes(), SecretHash: hash[:], Role: asWorker, Uses: 1, Root: tok.Digest[:],
			ExpiresAt: time.Now().Add(time.Hour).UnixNano(), History: tx.Cluster().GetHistory(), Labels: map[string]string{"zone": "a"}}
		if change != nil {
			change(v)
		}
		return tx.PutToken(v)
	})
	return tok, x
}

// applicant is a machine that asks the authority itself, without a network.
func (w *world) applicant(t *testing.T, tok ca.Token) *cav1.EnrollRequest {
	t.Helper()
	csr, err := ca.NewCSR(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return &cav1.EnrollRequest{Token: tok.Reveal(), Csr: csr, Hostname: "web-1"}
}

func (w *world) authority(t *testing.T, db *store.DB) *authority.Server {
	t.Helper()
	a, err := authority.New(authority.Config{Members: enrol.NewMembers(db), PerAddress: 1e6, Total: 1e6, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func from(t *testing.T, address string) context.Context {
	t.Helper()
	return rpc.WithCaller(t.Context(), rpc.Caller{Address: address})
}

func TestATokenLetsInWhomItSaysAndNotesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	tok, x := w.token(t, nil)
	key := newKey(t)
	got, err := w.join(t, tok, key, m.address)
	if err != nil {
		t.Fatal(err)
	}
	n := w.store.Snapshot().Node(got.Credential.Identity.Node)
	if n.GetSpec().GetLabels()["zone"] != "a" || n.GetSpec().GetRole() != asWorker {
		t.Errorf("the node's record is %v", n)
	}
	v := w.store.Snapshot().Token(x)
	if u := v.GetUsed(); len(u) != 1 || u[0].GetHostname() != "h1" || u[0].GetFrom() != "127.0.0.1" || u[0].GetAt() == 0 ||
		string(u[0].GetNode()) != string(n.GetId()) || v.GetEnd() != modelv1.TokenEnd_TOKEN_END_USED_UP {
		t.Errorf("the token notes %v", v)
	}
	// The answer may have been lost: the same key asks again, the token used up.
	before := w.store.Snapshot().Index()
	again, err := w.join(t, tok, key, m.address)
	if err != nil || again.Credential.Identity.Node != got.Credential.Identity.Node || again.Credential.Identity.Generation != 1 {
		t.Errorf("the same key asked again: %v, %v", again, err)
	}
	if after := w.store.Snapshot().Index(); after != before {
		t.Errorf("asking again wrote entries %d to %d", before+1, after)
	}
	if _, err := w.join(t, tok, newKey(t), m.address); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "used already") {
		t.Errorf("another with the same token: %v", err)
	}
}

func TestATokenRefusesInWords(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	a := w.authority(t, w.db)
	for name, tt := range map[string]struct {
		change func(*modelv1.JoinToken)
		from   string
		want   string // in the refusal; "" is let in
	}{
		"expired":            {func(v *modelv1.JoinToken) { v.ExpiresAt = time.Now().Add(-time.Second).UnixNano() }, "", "it expired at "},
		"revoked":            {func(v *modelv1.JoinToken) { v.End = modelv1.TokenEnd_TOKEN_END_REVOKED }, "", "it was revoked"},
		"another name":       {func(v *modelv1.JoinToken) { v.Name = "db-*" }, "", `it is for hosts named "db-*", and this one is called "web-1"`},
		"its name":           {func(v *modelv1.JoinToken) { v.Name = "web-[0-9]" }, "", ""},
		"another network":    {func(v *modelv1.JoinToken) { v.From = []string{"10.0.0.0/8"} }, "192.0.2.1:99", "it is for hosts in 10.0.0.0/8, and this one asks from 192.0.2.1"},
		"its network":        {func(v *modelv1.JoinToken) { v.From = []string{"192.168.0.0/16", "10.0.0.0/8"} }, "10.1.2.3:99", ""},
		"its network, as v6": {func(v *modelv1.JoinToken) { v.From = []string{"10.0.0.0/8"} }, "[::ffff:10.1.2.3]:99", ""},
		"no address":         {func(v *modelv1.JoinToken) { v.From = []string{"0.0.0.0/0"} }, "", "asks from"},
		"another history":    {func(v *modelv1.JoinToken) { v.History = id.New().Bytes() }, "", "restored or founded anew"},
	} {
		tok, _ := w.token(t, tt.change)
		before := w.store.Snapshot().Index()
		_, err := a.Enroll(from(t, tt.from), w.applicant(t, tok))
		switch after := w.store.Snapshot().Index(); {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), tt.want) || rpc.HintOf(err) == ""):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		case tt.want != "" && after != before:
			t.Errorf("%s: the refusal wrote %d entries", name, after-before)
		case err != nil && strings.Contains(err.Error(), strings.Split(tok.Reveal(), "-")[3]):
			t.Errorf("%s: the refusal tells the secret", name)
		}
	}
	foreign, _ := other.token(t, nil)
	if _, err := a.Enroll(t.Context(), w.applicant(t, foreign)); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "of another cluster") {
		t.Errorf("a token of another cluster: %v", err)
	}
	// The right secret under the wrong root: whoever rewrote the digest wants the
	// secret sent to himself.
	tok, _ := w.token(t, nil)
	tok.Digest = foreign.Digest
	if _, err := a.Enroll(t.Context(), w.applicant(t, tok)); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "of another cluster") {
		t.Errorf("a token with another root: %v", err)
	}
}

// TestATokenOutlivesTheRootItPins: what the authority holds is enough for a token
// from before a rotation; that a manager still shows the old root is rotation's.
func TestATokenOutlivesTheRootItPins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	former := ca.RootDigest([]byte("a root that was rotated away"))
	tok, _ := w.token(t, func(v *modelv1.JoinToken) { v.Root = former[:] })
	tok.Digest = former
	if _, err := w.authority(t, w.db).Enroll(t.Context(), w.applicant(t, tok)); err != nil {
		t.Errorf("a token that pins a former root: %v", err)
	}
}

// TestOfAHundredRacersATokenLetsInOne, at two leaders at once: one of them is
// deposed and does not know. Answers get lost and are asked for again.
func TestOfAHundredRacersATokenLetsInOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tok, x := w.token(t, nil)
	// The second of what was committed loses its answer, as with a dying leader.
	var commits atomic.Int64
	lossy := store.NewDB(w.store, proposer(func(ctx context.Context, tx []byte) (uint64, error) {
		index, err := w.log.Propose(ctx, tx)
		if err == nil && commits.Add(1) == 1 {
			return 0, fmt.Errorf("the leader is gone: %w", errdefs.ErrUnavailable)
		}
		return index, err
	}))
	leaders := []*authority.Server{w.authority(t, lossy), w.authority(t, w.db)}
	var in, lost atomic.Int64
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range 100 {
		req := w.applicant(t, tok)
		wg.Go(func() {
			<-begin
			_, err := leaders[i%2].Enroll(t.Context(), req)
			if errdefs.IsUnavailable(err) {
				lost.Add(1)
				_, err = leaders[1].Enroll(t.Context(), req)
			}
			switch {
			case err == nil:
				in.Add(1)
			case !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "used already"):
				t.Errorf("a racer was refused with: %v", err)
			}
		})
	}
	close(begin)
	wg.Wait()
	nodes := 0
	for range w.store.Snapshot().Nodes() {
		nodes++
	}
	if v := w.store.Snapshot().Token(x); in.Load() != 1 || nodes != 1 || len(v.GetUsed()) != 1 {
		t.Errorf("%d were let in, there are %d nodes, the token notes %d uses; answers lost: %d", in.Load(), nodes, len(v.GetUsed()), lost.Load())
	}
}

type proposer func(ctx context.Context, tx []byte) (uint64, error)

func (p proposer) Propose(ctx context.Context, tx []byte) (uint64, error) { return p(ctx, tx) }

// TestAFloodOfBadJoinsCostsTheLogNothing: nothing is proposed for a refusal, and
// soon nothing is even looked at.
func TestAFloodOfBadJoinsCostsTheLogNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, err := authority.New(authority.Config{Members: enrol.NewMembers(w.db), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	wrong, used := ca.Token{Digest: ca.RootDigest(w.root), Secret: ca.NewTokenSecret()}, func() ca.Token {
		tok, _ := w.token(t, func(v *modelv1.JoinToken) { v.End = modelv1.TokenEnd_TOKEN_END_REVOKED })
		return tok
	}()
	reqs := []*cav1.EnrollRequest{w.applicant(t, wrong), w.applicant(t, used), {Token: "x"}, {Token: wrong.Reveal(), Csr: make([]byte, 1<<20)}}
	before, slowed := w.store.Snapshot().Index(), 0
	for i := range 5000 {
		_, err := a.Enroll(from(t, fmt.Sprintf("10.0.%d.%d:1", i/256%8, i%256)), reqs[i%len(reqs)])
		if err == nil {
			t.Fatal("a bad join was let in")
		}
		if errdefs.IsResourceExhausted(err) {
			slowed++
		}
	}
	if after := w.store.Snapshot().Index(); after != before {
		t.Errorf("5000 bad joins wrote %d entries", after-before)
	}
	if slowed < 3000 {
		t.Errorf("of 5000 bad joins %d were refused unread", slowed)
	}
}

func TestWhoIsToBeApprovedWaitsWithoutACertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	tok, x := w.token(t, func(v *modelv1.JoinToken) { v.Approve, v.Uses = true, 2 })
	key := newKey(t)
	_, err := w.join(t, tok, key, m.address)
	waits, ok := errors.AsType[*client.Waiting](err)
	if !ok {
		t.Fatalf("joined: %v, want to wait", err)
	}
	n := w.store.Snapshot().Node(waits.Node)
	if n.GetMembership() != modelv1.Membership_MEMBERSHIP_PENDING || n.GetCurrent() != nil || string(n.GetEnrolmentKey()) != string(waits.Key[:]) {
		t.Errorf("the node that waits is %v", n)
	}
	before := w.store.Snapshot().Index()
	if _, err := w.join(t, tok, key, m.address); !errors.As(err, &waits) || w.store.Snapshot().Index() != before {
		t.Errorf("asking again: %v, %d entries", err, w.store.Snapshot().Index()-before)
	}
	w.editNode(t, waits.Node, func(n *modelv1.Node) { n.Membership = modelv1.Membership_MEMBERSHIP_ACCEPTED })
	got, err := w.join(t, tok, key, m.address)
	if err != nil || got.Credential.Identity.Node != waits.Node {
		t.Fatalf("after it was accepted: %v, %v", got, err)
	}
	again, err := w.join(t, tok, key, m.address)
	if err != nil || again.Credential.Identity.Generation != 1 {
		t.Errorf("and asked again: %v, %v", again, err)
	}
	// Another is rejected: its key is not let in by this token again.
	bad := newKey(t)
	if _, err = w.join(t, tok, bad, m.address); !errors.As(err, &waits) {
		t.Fatal(err)
	}
	w.update(t, func(tx *store.Tx) error {
		v := proto.CloneOf(tx.Token(x))
		v.Used[1].Verdict = modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED
		if err := tx.PutToken(v); err != nil {
			return err
		}
		return tx.Delete(store.KindNode, waits.Node.Bytes())
	})
	if _, err := w.join(t, tok, bad, m.address); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "an operator rejected this node") {
		t.Errorf("rejected, and asked again: %v", err)
	}
}

func TestNoMoreNodesWaitThanAreToBeLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tok, _ := w.token(t, func(v *modelv1.JoinToken) { v.Approve, v.Uses = true, 1000 })
	a, waiting := w.authority(t, w.db), 0
	for {
		_, err := a.Enroll(t.Context(), w.applicant(t, tok))
		if errdefs.IsResourceExhausted(err) {
			break
		}
		if waiting++; err != nil || waiting > 256 {
			t.Fatalf("node %d: %v", waiting, err)
		}
	}
	if waiting != 256 {
		t.Errorf("%d nodes may wait", waiting)
	}
}

// TestWhoIsNotInFIPSModeIsRefusedInWordsAndUsesNoToken: by standing tokens and made
// ones, with approval and without; and who has no token is not told of the mode.
func TestWhoIsNotInFIPSModeIsRefusedInWordsAndUsesNoToken(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, true)
	a := w.authority(t, w.db)
	made, x := w.token(t, nil)
	approve, y := w.token(t, func(v *modelv1.JoinToken) { v.Approve = true })
	stranger := ca.Token{Digest: ca.RootDigest(w.root), Secret: ca.NewTokenSecret()}
	if _, err := a.Enroll(from(t, "10.0.0.1:1"), w.applicant(t, stranger)); !errdefs.IsPermissionDenied(err) {
		t.Errorf("without a token: %v, want that it is refused", err)
	}
	for name, tok := range map[string]ca.Token{"standing": w.worker, "made": made, "to be approved": approve} {
		req := w.applicant(t, tok)
		_, err := a.Enroll(from(t, "10.0.0.1:1"), req)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "FIPS 140-3") || rpc.HintOf(err) != rpc.FIPSHint {
			t.Errorf("%s: %v (hint %q), want FailedPrecondition and what to do", name, err, rpc.HintOf(err))
		}
	}
	snap := w.store.Snapshot()
	for range snap.Nodes() {
		t.Error("a node was let in")
	}
	if len(snap.Token(x).GetUsed())+len(snap.Token(y).GetUsed()) > 0 {
		t.Error("a token was used")
	}
	req := w.applicant(t, made)
	req.Fips = true
	resp, err := a.Enroll(from(t, "10.0.0.1:1"), req)
	if err != nil || !resp.GetIssued().GetFips() {
		t.Fatalf("in the mode: %v, %v; want a certificate, and to be told of it", resp, err)
	}
	if n := w.store.Snapshot().Node(id.ID(resp.GetIssued().GetNode())); !n.GetDescription().GetFips() {
		t.Errorf("it is described as %v", n.GetDescription())
	}
}

// TestAJoinerReadsInItsTokenThatItNeedNotAsk: nobody hears of it.
func TestAJoinerReadsInItsTokenThatItNeedNotAsk(t *testing.T) {
	t.Parallel()
	dialled := false
	_, err := client.Enroll(t.Context(), client.Join{
		Token: ca.Token{Secret: ca.NewTokenSecret(), FIPS: true}, Remotes: []string{"192.0.2.1:2377"}, Key: newKey(t),
		Dial: func(context.Context, string) (net.Conn, error) { dialled = true; return nil, errors.New("no") },
	})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "FIPS 140-3") || dialled {
		t.Errorf("%v, dialled: %t; want FailedPrecondition, and no word to anybody", err, dialled)
	}
}
