package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/store/storetest"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

func service(x id.ID, name string) *modelv1.Service {
	return &modelv1.Service{Id: x.Bytes(), Spec: &modelv1.ServiceSpec{Name: name}}
}

// count adds one to a number kept in a service's name.
func count(x id.ID) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		v := proto.CloneOf(tx.Service(x))
		v.LastRevision++
		return tx.PutService(v)
	}
}

func create(t testing.TB, db *store.DB, x id.ID, name string) {
	t.Helper()
	_, err := db.Update(t.Context(), nil, func(tx *store.Tx) error { return tx.PutService(service(x, name)) })
	if err != nil {
		t.Fatal(err)
	}
}

func TestRivalUpdatesAllCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, _ := storetest.New()
		x := id.New()
		create(t, db, x, "counter")
		const writers, each = 8, 25
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					for { // a writer that was aborted tries again
						_, err := db.Update(t.Context(), nil, count(x))
						if err == nil {
							break
						}
						if !errdefs.IsAborted(err) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if got := s.Snapshot().Service(x).GetLastRevision(); got != writers*each {
			t.Errorf("counted %d, want %d", got, writers*each)
		}
	})
}

// TestNobodyIsAbortedForWantOfLuck: those who write one object without a pause
// lose races to each other, but not ten in a row.
func TestNobodyIsAbortedForWantOfLuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, log := storetest.New()
		x := id.New()
		create(t, db, x, "counter")
		log.Before = func([]byte) error { time.Sleep(time.Millisecond); return nil }
		const writers, each = 64, 20
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					if _, err := db.Update(t.Context(), nil, count(x)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := s.Snapshot().Service(x).GetLastRevision(); got != writers*each {
			t.Errorf("counted %d, want %d", got, writers*each)
		}
	})
}

// TestWhoWritesSomethingElseDoesNotQueue: while 64 writers take turns at one
// object, each write of another takes what one takes alone.
func TestWhoWritesSomethingElseDoesNotQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, log := storetest.New()
		hot, quiet := id.New(), id.New()
		create(t, db, hot, "hot")
		create(t, db, quiet, "quiet")
		log.Before = func([]byte) error { time.Sleep(time.Millisecond); return nil }
		const writers, each = 64, 5
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					if _, err := db.Update(t.Context(), nil, count(hot)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		crowds := 0
		for range 100 {
			began := time.Now()
			if _, err := db.Update(t.Context(), nil, count(quiet)); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took != time.Millisecond {
				t.Fatalf("a write beside the crowd took %v, want the 1ms it takes alone", took)
			}
			crowds += db.Lines()
		}
		wg.Wait()
		if got := s.Snapshot().Service(hot).GetLastRevision(); got != writers*each || crowds == 0 || db.Lines() != 0 {
			t.Errorf("counted %d of %d; there was a line %d times, and %d are left", got, writers*each, crowds, db.Lines())
		}
	})
}

// TestWhoReliesOnSeveralCrowdedObjectsComesToHisTurn: in whatever order he wrote
// them.
func TestWhoReliesOnSeveralCrowdedObjectsComesToHisTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, log := storetest.New()
		ids := []id.ID{id.New(), id.New(), id.New()}
		for i, x := range ids {
			create(t, db, x, fmt.Sprint("s", i))
		}
		log.Before = func([]byte) error { time.Sleep(time.Millisecond); return nil }
		const writers, each = 24, 10
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					a, b := ids[(w+i)%3], ids[(w+2*i+1)%3]
					_, err := db.Update(t.Context(), nil, func(tx *store.Tx) error { return errors.Join(count(a)(tx), count(b)(tx)) })
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		total := uint64(0)
		for _, x := range ids {
			total += s.Snapshot().Service(x).GetLastRevision()
		}
		if total != 2*writers*each || db.Lines() != 0 {
			t.Errorf("counted %d of %d; %d lines are left", total, 2*writers*each, db.Lines())
		}
	})
}

func TestWhoGivesUpInTheLineHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, log := storetest.New()
		x := id.New()
		create(t, db, x, "hot")
		log.Before = func([]byte) error { time.Sleep(10 * time.Millisecond); return nil }
		var wg sync.WaitGroup
		var done, gaveUp atomic.Uint64
		for i := range 40 {
			wg.Go(func() {
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				if i%2 == 0 {
					ctx, stop = context.WithTimeout(t.Context(), 35*time.Millisecond)
				}
				defer stop()
				switch _, err := db.Update(ctx, nil, count(x)); {
				case err == nil:
					done.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					gaveUp.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := s.Snapshot().Service(x).GetLastRevision(); got != done.Load() || done.Load() < 20 || gaveUp.Load() == 0 || db.Lines() != 0 {
			t.Errorf("%d counted, %d said so, %d gave up, %d lines left", got, done.Load(), gaveUp.Load(), db.Lines())
		}
	})
}

func TestAConflictIsRetriedOnANewerSnapshotAndGivenUpInWords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, db, log := storetest.New()
		x := id.New()
		create(t, db, x, "web")
		rivals, tries := 3, 0
		log.Before = func([]byte) error {
			if tries++; tries <= rivals {
				v := proto.CloneOf(s.Snapshot().Service(x))
				return log.Do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
			}
			return nil
		}
		index, err := db.Update(t.Context(), nil, count(x))
		if err != nil || tries != rivals+1 || s.Snapshot().Index() < index {
			t.Errorf("Update = %d, %v after %d tries, want success at the fourth", index, err, tries)
		}
		rivals, tries = 1000, 0
		_, err = db.Update(t.Context(), nil, count(x))
		if !errdefs.IsAborted(err) || tries != 10 || !strings.Contains(err.Error(), "service "+x.String()) {
			t.Errorf("Update = %v after %d tries, want Aborted after 10 that names the service", err, tries)
		}
	})
}

func TestATransactionSeesItsOwnWritesAndNobodyElseDoes(t *testing.T) {
	t.Parallel()
	s, db, _ := storetest.New()
	x := id.New()
	_, err := db.Update(t.Context(), nil, func(tx *store.Tx) error {
		if err := errors.Join(tx.PutService(service(x, "web")), tx.Claim(store.ClaimServiceName, "web", x)); err != nil {
			return err
		}
		if tx.ServiceByName("web") == nil || s.Snapshot().ServiceByName("web") != nil {
			t.Error("the write is not where it belongs")
		}
		v := proto.CloneOf(tx.Service(x))
		v.Removing = true
		return tx.PutService(v)
	})
	if err != nil {
		t.Fatal(err)
	}
	v := s.Snapshot().ServiceByName("web")
	if !v.GetRemoving() || v.GetMeta().GetVersion() != 1 {
		t.Errorf("service = %v", v)
	}
}

func TestAnErrorOfTheFunctionEndsTheUpdate(t *testing.T) {
	t.Parallel()
	s, db, log := storetest.New()
	log.Before = func([]byte) error { t.Error("it was proposed"); return nil }
	mine := errors.New("mine")
	if _, err := db.Update(t.Context(), nil, func(tx *store.Tx) error {
		return errors.Join(tx.PutService(service(id.New(), "x")), mine)
	}); !errors.Is(err, mine) {
		t.Errorf("Update = %v, want mine", err)
	}
	if _, err := db.Update(t.Context(), nil, func(*store.Tx) error { return nil }); err != nil || s.Snapshot().Index() != 0 {
		t.Errorf("an update that writes nothing: %v", err)
	}
}

func TestWhatIsTakenIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	_, db, _ := storetest.New()
	a, b := id.New(), id.New()
	create(t, db, a, "web")
	if _, err := db.Update(t.Context(), nil, func(tx *store.Tx) error {
		return errors.Join(tx.Claim("k", "x", a), tx.Claim(store.InUse(store.KindService), store.InUseKey(a, b), b))
	}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		fn   func(tx *store.Tx) error
	}{
		{"a claim", func(tx *store.Tx) error { return tx.Claim("k", "x", b) }},
		{"a release", func(tx *store.Tx) error { return tx.Release("k", "x", b) }},
		{"a new object with the id of another", func(tx *store.Tx) error { return tx.PutService(service(a, "again")) }},
		{"a change of an older version", func(tx *store.Tx) error {
			return tx.PutService(&modelv1.Service{Id: a.Bytes(), Meta: &modelv1.Meta{Version: 99}})
		}},
		{"deleting what is in use", func(tx *store.Tx) error { return tx.Delete(store.KindService, a.Bytes()) }},
	} {
		var c *store.Conflict
		if _, err := db.Update(t.Context(), nil, tt.fn); !errors.As(err, &c) {
			t.Errorf("%s: %v, want a *Conflict", tt.name, err)
		}
	}
}

func TestARequestHasOneAnswer(t *testing.T) {
	t.Parallel()
	s, db, _ := storetest.New()
	x := id.New()
	req := &logv1.Request{Caller: "user:a", Id: []byte("1"), Hash: []byte("h"), Objects: [][]byte{x.Bytes()}}
	runs := 0
	run := func(req *logv1.Request) error {
		_, err := db.Update(t.Context(), req, func(tx *store.Tx) error {
			runs++
			return tx.PutService(service(id.New(), "s"))
		})
		return err
	}
	if err := run(req); err != nil {
		t.Fatal(err)
	}
	var d *store.Duplicate
	if err := run(req); !errors.As(err, &d) || !slices.Equal(d.Objects, []id.ID{x}) || d.Index != 1 || runs != 1 {
		t.Errorf("the retry: %v (%+v) after %d runs, want the first answer", err, d, runs)
	}
	other := proto.CloneOf(req)
	other.Hash = []byte("other")
	if err := run(other); !errdefs.IsInvalidArgument(err) {
		t.Errorf("another request under the id: %v, want InvalidArgument", err)
	}
	if got := s.Snapshot().Index(); got != 1 {
		t.Errorf("index = %d, want 1", got)
	}
}

func TestARequestThatWasAnsweredMeanwhileHasOneAnswer(t *testing.T) {
	t.Parallel()
	_, db, log := storetest.New()
	req := &logv1.Request{Caller: "c", Id: []byte("1"), Hash: []byte("h")}
	fn := func(tx *store.Tx) error { return tx.PutService(service(id.New(), "s")) }
	log.Before = func([]byte) error { // the first try, thought lost, commits now
		log.Before = nil
		_, err := db.Update(t.Context(), req, fn)
		return err
	}
	var d *store.Duplicate
	if _, err := db.Update(t.Context(), req, fn); !errors.As(err, &d) {
		t.Errorf("Update = %v, want a duplicate", err)
	}
}

func TestTheWaitBetweenTriesEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s, db, log := storetest.New()
	x := id.New()
	create(t, db, x, "web")
	ctx, cancel := context.WithCancel(t.Context())
	log.Before = func([]byte) error {
		cancel()
		return log.Do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: proto.CloneOf(s.Snapshot().Service(x))}})
	}
	if _, err := db.Update(ctx, nil, count(x)); !errors.Is(err, context.Canceled) {
		t.Errorf("Update = %v, want Canceled", err)
	}
}

func TestUnitsAreCutAndDroppedByNumber(t *testing.T) {
	t.Parallel()
	s, db, log := storetest.New()
	web, node := id.New(), id.New()
	create(t, db, web, "web")
	if err := log.Do(&logv1.Operation{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{Id: node.Bytes()}}}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	proposals := 0
	log.Before = func(tx []byte) error {
		mu.Lock()
		defer mu.Unlock()
		proposals++
		if len(tx) > 1<<20 {
			t.Errorf("a proposal of %d bytes", len(tx))
		}
		return nil
	}
	var units []store.Parcel
	var want []int
	for i := range 12_000 {
		task := &modelv1.Task{Id: id.New().Bytes(), Service: web.Bytes(), Node: node.Bytes(), Slot: uint64(i + 1), Desired: taskstate.Running}
		u := &logv1.Unit{Operations: []*logv1.Operation{{Op: &logv1.Operation_CreateTask{CreateTask: task}}}}
		if i%1000 == 7 {
			u.Expects = []*logv1.Expect{{Kind: store.KindService, Key: web.Bytes(), Version: 999}}
			want = append(want, i)
		}
		units = append(units, store.Parcel{Unit: u})
	}
	dropped, err := db.Units(t.Context(), units)
	if err != nil || !slices.Equal(dropped, want) {
		t.Errorf("Units = %v, %v; want %v dropped", dropped, err, want)
	}
	if proposals != 3 {
		t.Errorf("%d proposals, want 3 of at most 5000 operations", proposals)
	}
	if got := s.Snapshot().CountByNode(node); got != 12_000-len(want) {
		t.Errorf("%d tasks on the node, want %d", got, 12_000-len(want))
	}
	if dropped, err := db.Units(t.Context(), units[:1]); err != nil || !slices.Equal(dropped, []int{0}) {
		t.Errorf("one unit that conflicts: %v, %v", dropped, err)
	}
	if dropped, err := db.Units(t.Context(), nil); err != nil || len(dropped) != 0 {
		t.Errorf("no units: %v, %v", dropped, err)
	}
	moves := []store.Parcel{{Unit: &logv1.Unit{}}}
	want = nil
	for n := range 3 {
		p := &logv1.Moves{Service: web.Bytes(), Version: s.Snapshot().Version(store.KindService, web.Bytes())}
		for i := range 2000 {
			p.Moves = append(p.Moves, &logv1.Move{Make: &logv1.Make{Task: id.New().Bytes(), Revision: 1, Slot: uint64(i + 1)}})
		}
		if n != 1 { // a task that is not there
			p.Moves[7].Choices = []*logv1.Choice{{Task: id.New().Bytes(), Version: 1, Forget: true}}
			want = append(want, n+1)
		}
		moves = append(moves, store.Parcel{Moves: p})
	}
	had := s.Snapshot().CountTasks()
	if dropped, err := db.Units(t.Context(), moves); err != nil || !slices.Equal(dropped, want) {
		t.Errorf("moves: %v, %v; want of parcels %v one each", dropped, err, want)
	}
	if got := s.Snapshot().CountTasks() - had; got != 5998 {
		t.Errorf("%d tasks made, want all but those whose move was dropped", got)
	}
	broken := errors.New("no quorum")
	log.Before = func([]byte) error { return broken }
	if _, err := db.Units(t.Context(), units); !errors.Is(err, broken) {
		t.Errorf("Units = %v, want the proposer's error", err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	_, db, _ := storetest.New()
	var ids []id.ID
	for i := range 1000 {
		x := id.New()
		create(b, db, x, fmt.Sprintf("s%d", i))
		ids = append(ids, x)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := db.Update(b.Context(), nil, count(ids[i%len(ids)])); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkUpdateParallel(b *testing.B) {
	_, db, _ := storetest.New()
	b.RunParallel(func(pb *testing.PB) {
		x := id.New()
		create(b, db, x, x.String())
		for pb.Next() {
			if _, err := db.Update(b.Context(), nil, count(x)); err != nil {
				b.Error(err)
			}
		}
	})
}
