package enrol_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/enrol"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// kept is a cluster under a leader that keeps its tokens. Its log time is the
// test's.
type kept struct {
	*testing.T
	store *store.Store
	db    *store.DB
	log   *storetest.Log
}

func keep(t *testing.T, test func(k *kept)) {
	synctest.Test(t, func(t *testing.T) {
		k := &kept{T: t}
		k.store, k.db, k.log = storetest.New()
		k.edit(func(tx *store.Tx) error {
			return tx.PutCluster(&modelv1.Cluster{Id: id.New().Bytes(), History: []byte("one"), Spec: &modelv1.ClusterSpec{},
				WorkerToken: []byte("w"), ManagerToken: []byte("m")})
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- enrol.NewMembers(k.db).Keep(ctx, quiet) }()
		test(k)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (k *kept) edit(fn func(tx *store.Tx) error) {
	k.Helper()
	if _, err := k.db.Update(k.Context(), nil, fn); err != nil {
		k.Fatal(err)
	}
}

func (k *kept) spec(change func(*modelv1.ClusterSpec)) {
	k.Helper()
	k.edit(func(tx *store.Tx) error {
		c := proto.CloneOf(tx.Cluster())
		change(c.Spec)
		return tx.PutCluster(c)
	})
	k.beat()
}

// beat lets the leader look once more.
func (k *kept) beat() {
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

// after lets log time pass.
func (k *kept) after(d time.Duration) *modelv1.Cluster {
	k.Helper()
	k.log.Advance(d)
	k.edit(func(tx *store.Tx) error { return tx.PutNode(&modelv1.Node{Id: id.New().Bytes()}) })
	k.beat()
	return k.store.Snapshot().Cluster()
}

func (k *kept) token(x id.ID, change func(*modelv1.JoinToken)) {
	k.Helper()
	k.edit(func(tx *store.Tx) error {
		v := &modelv1.JoinToken{Id: x.Bytes(), SecretHash: x.Bytes(), Role: asWorker, Uses: 5, History: []byte("one"),
			ExpiresAt: tx.LogTime().Add(time.Hour).UnixNano()}
		change(v)
		return tx.PutToken(v)
	})
}

func TestStandingTokensAreRotatedByTheClock(t *testing.T) {
	keep(t, func(k *kept) {
		if c := k.after(1000 * time.Hour); !bytes.Equal(c.GetWorkerToken(), []byte("w")) {
			t.Fatal("rotated though nobody wanted it")
		}
		k.spec(func(s *modelv1.ClusterSpec) { s.TokenRotation = int64(24 * time.Hour) })
		if c := k.after(23 * time.Hour); !bytes.Equal(c.GetWorkerToken(), []byte("w")) {
			t.Fatal("rotated before its time")
		}
		c := k.after(time.Hour + time.Minute)
		if bytes.Equal(c.GetWorkerToken(), []byte("w")) || bytes.Equal(c.GetManagerToken(), []byte("m")) ||
			!bytes.Equal(c.GetPreviousWorkerToken(), []byte("w")) || !bytes.Equal(c.GetPreviousManagerToken(), []byte("m")) {
			t.Fatalf("after the interval: %v", c)
		}
		if c = k.after(58 * time.Minute); c.GetPreviousWorkerToken() == nil {
			t.Error("the overlap ended early")
		}
		second := c.GetWorkerToken()
		if c = k.after(3 * time.Minute); c.GetPreviousWorkerToken() != nil || c.GetPreviousUntil() != 0 || !bytes.Equal(c.GetWorkerToken(), second) {
			t.Errorf("after the overlap: %v", c)
		}
		if c = k.after(24 * time.Hour); bytes.Equal(c.GetWorkerToken(), second) || !bytes.Equal(c.GetPreviousWorkerToken(), second) {
			t.Errorf("after the second interval: %v", c)
		}
		// A clock that is turned off and on begins anew.
		k.spec(func(s *modelv1.ClusterSpec) { s.TokenRotation = 0 })
		third := k.after(100 * time.Hour).GetWorkerToken()
		k.spec(func(s *modelv1.ClusterSpec) { s.TokenRotation = int64(24 * time.Hour) })
		if c = k.after(23 * time.Hour); !bytes.Equal(c.GetWorkerToken(), third) {
			t.Error("rotated by a clock that was turned off meanwhile")
		}
	})
}

func TestTheOverlapIsNoLongerThanTheInterval(t *testing.T) {
	keep(t, func(k *kept) {
		k.spec(func(s *modelv1.ClusterSpec) { s.TokenRotation = int64(20 * time.Minute) })
		c := k.after(20 * time.Minute)
		if left := time.Unix(0, c.GetPreviousUntil()).Sub(k.store.Snapshot().LogTime()); left < 20*time.Minute || left > 20*time.Minute+5*time.Second {
			t.Errorf("the former works for %v more", left)
		}
	})
}

func TestTimeAndANewHistoryEndTokens(t *testing.T) {
	keep(t, func(k *kept) {
		k.token(id.ID{15: 1}, func(*modelv1.JoinToken) {})
		k.token(id.ID{15: 2}, func(v *modelv1.JoinToken) { v.ExpiresAt += int64(time.Hour) })
		k.token(id.ID{15: 3}, func(v *modelv1.JoinToken) { v.History = []byte("before the restore"); v.ExpiresAt *= 2 })
		k.after(time.Hour)
		want := []modelv1.TokenEnd{modelv1.TokenEnd_TOKEN_END_EXPIRED, 0, modelv1.TokenEnd_TOKEN_END_REVOKED}
		for i, end := range want {
			if v := k.store.Snapshot().Token(id.ID{15: byte(i + 1)}); v.GetEnd() != end || (end != 0) != (v.GetEndedAt() != 0) {
				t.Errorf("token %d: %v", i+1, v)
			}
		}
		before := k.store.Snapshot().Index()
		k.beat()
		if after := k.store.Snapshot().Index(); after != before {
			t.Errorf("looking again wrote %d entries", after-before)
		}
		k.after(enrol.TokensKept)
		if left := k.store.Snapshot().CountTokens(); left != 1 {
			t.Errorf("%d tokens are remembered, want the one that ended last", left)
		}
	})
}

func TestOnlySoManyTokensThatAreOverAreRemembered(t *testing.T) {
	keep(t, func(k *kept) {
		for i := range 1003 {
			k.token(id.ID{14: byte(i / 256), 15: byte(i%256 + 0), 0: 1}, func(v *modelv1.JoinToken) {
				v.End, v.EndedAt = modelv1.TokenEnd_TOKEN_END_REVOKED, k.store.Snapshot().LogTime().UnixNano()+int64(i)
			})
		}
		k.beat()
		snap := k.store.Snapshot()
		if snap.CountTokens() != 1000 || snap.Token(id.ID{0: 1, 15: 2}) != nil || snap.Token(id.ID{0: 1, 15: 3}) == nil {
			t.Errorf("%d tokens are remembered; want the last 1000", snap.CountTokens())
		}
	})
}

func TestANodeThatNobodyAcceptsLapses(t *testing.T) {
	keep(t, func(k *kept) {
		x, tok := id.ID{15: 9}, id.ID{15: 1}
		k.token(tok, func(v *modelv1.JoinToken) {
			v.ExpiresAt *= 2
			v.Used = []*modelv1.TokenUse{{Node: x.Bytes(), Verdict: modelv1.TokenVerdict_TOKEN_VERDICT_PENDING}}
		})
		k.edit(func(tx *store.Tx) error {
			return tx.PutNode(&modelv1.Node{Id: x.Bytes(), TokenHash: tok.Bytes(), Membership: modelv1.Membership_MEMBERSHIP_PENDING})
		})
		k.after(enrol.PendingFor - time.Minute)
		if k.store.Snapshot().Node(x) == nil {
			t.Fatal("it was sent away early")
		}
		k.after(time.Minute)
		if v := k.store.Snapshot().Token(tok); k.store.Snapshot().Node(x) != nil || v.GetUsed()[0].GetVerdict() != modelv1.TokenVerdict_TOKEN_VERDICT_LAPSED {
			t.Errorf("after its time: node %v, token %v", k.store.Snapshot().Node(x), v)
		}
	})
}
