package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestTurnsComeInTheOrderOfQueueing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ls lines
		first := &queuer{lines: &ls}
		if err := first.join(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		var order []int
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				q := &queuer{lines: &ls}
				if err := q.join(t.Context(), "a"); err != nil {
					t.Error(err)
				}
				order = append(order, i) // it has the turn, so nobody else is here
				q.giveBack(0)
			})
			synctest.Wait()
		}
		first.giveBack(0)
		wg.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) || len(ls.by) != 0 {
			t.Errorf("turns in the order %v, %d lines left", order, len(ls.by))
		}
	})
}

func TestWhoGivesUpLeavesEveryLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ls lines
		holder, late := &queuer{lines: &ls}, &queuer{lines: &ls}
		if err := holder.join(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("the caller went away")
		ctx, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { stop(gone) })
		if err := late.join(ctx, "b", "a"); !errors.Is(err, gone) {
			t.Errorf("join = %v, want the context's cause", err)
		}
		if !slices.Equal(late.held, []string{"a"}) || len(ls.by) != 2 {
			t.Errorf("has turns at %q of %d lines, want the one it came to", late.held, len(ls.by))
		}
		late.giveBack(0)
		holder.giveBack(0)
		if len(ls.by) != 0 {
			t.Errorf("%d lines left", len(ls.by))
		}
	})
}

func TestATurnThatIsHeldIsNoCrowd(t *testing.T) {
	t.Parallel()
	var ls lines
	q, other := &queuer{lines: &ls}, &queuer{lines: &ls}
	u := &logv1.Unit{Expects: []*logv1.Expect{{Kind: KindService, Key: web.Bytes()}, {Kind: KindNode, Key: node1.Bytes()}}}
	claim := &modelv1.Claim{Kind: ClaimServiceName, Key: "web", Owner: web.Bytes()}
	u.Operations = []*logv1.Operation{{Op: &logv1.Operation_Claim{Claim: claim}}, {Op: &logv1.Operation_Release{Release: claim}}, opService(web, "web")}
	service, name := spot(KindService, web.Bytes()), spot(KindClaim, ClaimKey(ClaimServiceName, "web"))
	if got := q.crowded(u); got != nil {
		t.Errorf("with no lines: %q", got)
	}
	if err := other.join(t.Context(), service, name, spot(KindService, id.ID{1}.Bytes())); err != nil {
		t.Fatal(err)
	}
	got := q.crowded(u)
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, []string{service, name}) {
		t.Errorf("crowded %q, want the service and its name", got)
	}
	if got := other.crowded(u); got != nil {
		t.Errorf("it is in its own way: %q", got)
	}
}

// TestTurnsNeverOverlapAndNeverLock: whoever queues for whatever, in whatever
// order, comes to his turns, alone, and leaves no line.
func TestTurnsNeverOverlapAndNeverLock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		plans := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 6), 2, 8).Draw(r, "plans")
		synctest.Test(t, func(t *testing.T) { // a lock is a deadlock of the bubble
			var ls lines
			var mu sync.Mutex // guards has
			has := map[string]*queuer{}
			var wg sync.WaitGroup
			for _, plan := range plans {
				wg.Go(func() {
					q := &queuer{lines: &ls}
					for _, s := range plan {
						mu.Lock()
						for _, h := range q.held { // it may give any of them back
							delete(has, h)
						}
						mu.Unlock()
						if err := q.join(t.Context(), s); err != nil {
							t.Error(err)
						}
						mu.Lock()
						for _, h := range q.held {
							if o := has[h]; o != nil && o != q {
								t.Errorf("two have their turn at %s", h)
							}
							has[h] = q
						}
						mu.Unlock()
						time.Sleep(time.Millisecond)
					}
					mu.Lock()
					for _, h := range q.held {
						delete(has, h)
					}
					mu.Unlock()
					q.giveBack(0)
				})
			}
			wg.Wait()
			if len(ls.by) != 0 {
				t.Errorf("%d lines left", len(ls.by))
			}
		})
	})
}
