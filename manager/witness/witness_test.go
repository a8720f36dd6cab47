package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// leader writes down what it is told, unless it is away.
type leader struct {
	mu   sync.Mutex
	told []*logv1.Sight
	away bool
}

func (l *leader) tell(_ context.Context, sights []*logv1.Sight) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return errors.New("no leader")
	}
	l.told = append(l.told, sights...)
	return nil
}

// take returns what was told since the last take, and how much it stands for.
func (l *leader) take() (out []*logv1.Sight, count uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out, l.told = l.told, nil
	for _, v := range out {
		count += v.GetCount()
	}
	return out, count
}

// gather runs a Gatherer in a bubble.
func gather(t *testing.T, body func(*testing.T, *Gatherer, *leader)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &leader{}
		g := New(Config{Self: id.ID{1}, Tell: l.tell, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = g.Run(ctx) })
		body(t, g, l)
		stop()
		wg.Wait()
	})
}

// remembered is how many kinds there are in a book.
func remembered(g *Gatherer, b *book) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(b.kinds)
}

func stranger(host string) rpc.Caller {
	return rpc.Caller{Address: host + ":999", Method: "/skep.ca.v1.Authority/Enroll"}
}

func alice(method string) rpc.Caller {
	return rpc.Caller{Kind: rpc.User, User: "alice", Person: ca.UserIdentity{User: id.ID{9}}, Address: "10.0.0.9:1", Method: "/skep.control.v1.Control/" + method}
}

func TestWhatIsAlikeIsToldAsOneAndSoon(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		for range 5 {
			g.Saw(alice("RemoveNode"), "PermissionDenied", "to remove a node\ntakes the role admin")
		}
		g.Saw(alice("GetUnlockKey"), "", "")
		time.Sleep(2 * beat)
		got, _ := l.take()
		if len(got) != 2 {
			t.Fatalf("told %v", got)
		}
		v := got[0]
		if v.GetDeed().GetDid() == "GetUnlockKey" {
			v = got[1]
		}
		if d := v.GetDeed(); d.GetWho() != "user:alice" || id.ID(d.GetUser()) != (id.ID{9}) || d.GetFrom() != "10.0.0.9" || d.GetDid() != "RemoveNode" ||
			v.GetCount() != 5 || id.ID(v.GetBy()) != (id.ID{1}) || v.GetReason() != "to remove a node takes the role admin" {
			t.Errorf("told %v", v)
		}
	})
}

// TestWhatGoesOnIsToldMoreAndMoreSeldom, and all of it is counted.
func TestWhatGoesOnIsToldMoreAndMoreSeldom(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		const hours = 3
		for range hours * 3600 {
			g.Saw(alice("Session"), "Unauthenticated", "removed")
			time.Sleep(time.Second)
		}
		time.Sleep(2 * maxRest)
		got, count := l.take()
		if len(got) > 7+hours*6 || count != hours*3600 {
			t.Errorf("%d times was told in %d sights", count, len(got))
		}
		time.Sleep(3*maxRest + 2*forgetEvery)
		if n := remembered(g, &g.known); n != 0 {
			t.Errorf("%d kinds are remembered of those that are quiet", n)
		}
	})
}

// TestAFloodIsBoundedAndHidesNobody: of a million strangers few are told one by
// one, all are counted, and what alice was refused is told at once.
func TestAFloodIsBoundedAndHidesNobody(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		const flood, seconds = 2000, 60
		for i := range seconds {
			for k := range flood {
				g.Saw(stranger(fmt.Sprintf("10.%d.%d.%d", i%250, k/250, k%250)), "PermissionDenied", "join token refused")
			}
			time.Sleep(time.Second)
		}
		got, sum := l.take()
		if most := strangersBurst + seconds/10 + 1; len(got) > most {
			t.Errorf("%d sights were told, want at most %d", len(got), most)
		}
		if n := remembered(g, &g.strangers); n > maxKinds+1 {
			t.Errorf("%d kinds are remembered", n)
		}
		g.Saw(alice("RemoveNode"), "PermissionDenied", "no")
		time.Sleep(2 * beat)
		got, count := l.take()
		sum += count
		if !slices.ContainsFunc(got, func(v *logv1.Sight) bool { return v.GetDeed().GetWho() == "user:alice" }) {
			t.Errorf("alice was not told of: %v", got)
		}
		time.Sleep(24 * time.Hour) // all of it is told in the end
		if _, count = l.take(); sum+count != flood*seconds+1 {
			t.Errorf("%d were told of, want %d", sum+count, flood*seconds+1)
		}
		if m := g.Meters(); m.Seen != flood*seconds+1 || m.Lumped == 0 || m.Told == 0 {
			t.Errorf("the meters say %+v", m)
		}
	})
}

// TestWhoSeesNothingDoesNothing: it looks a few times an hour whether it may forget.
func TestWhoSeesNothingDoesNothing(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		for range 3 {
			time.Sleep(time.Hour)
			synctest.Wait()
			g.mu.Lock()
			asleep := g.asleep
			g.mu.Unlock()
			if !asleep {
				t.Error("it is awake")
			}
			g.Saw(alice("RemoveNode"), "PermissionDenied", "no")
			time.Sleep(2 * beat)
			if _, count := l.take(); count != 1 {
				t.Errorf("%d were told within two seconds", count)
			}
		}
	})
}

func TestAHostWithManyAddressesIsOne(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		for i := range 500 {
			g.Saw(stranger(fmt.Sprintf("[2001:db8::%x]", i+1)), "PermissionDenied", "no")
		}
		g.Saw(stranger("[2001:db8:0:1::1]"), "PermissionDenied", "no")
		time.Sleep(2 * beat)
		if got, count := l.take(); len(got) != 2 || count != 501 {
			t.Errorf("told %d sights of %d", len(got), count)
		}
	})
}

func TestWhatCannotBeToldIsToldLater(t *testing.T) {
	t.Parallel()
	gather(t, func(t *testing.T, g *Gatherer, l *leader) {
		l.away = true
		for range 100 {
			g.Saw(alice("RemoveNode"), "PermissionDenied", "no")
			time.Sleep(time.Second)
		}
		l.mu.Lock()
		l.away = false
		l.mu.Unlock()
		time.Sleep(maxRest)
		if _, count := l.take(); count != 100 {
			t.Errorf("%d of 100 were told", count)
		}
	})
}

func TestADeedSaysWhoAndForWhatNobodyAsksItIsNone(t *testing.T) {
	t.Parallel()
	if d := Deed(t.Context()); d != nil {
		t.Errorf("nobody's is %v", d)
	}
	if d := Deed(Own(t.Context(), "RotateTokens")); d.GetWho() != audit.Swarm || d.GetDid() != "RotateTokens" {
		t.Errorf("the swarm's own is %v", d)
	}
	c := rpc.Caller{Kind: rpc.User, User: "uid:0", Local: true, At: id.ID{3}, Via: id.ID{4}, Method: "/skep.control.v1.Control/CreateService"}
	if d := Deed(rpc.WithCaller(Own(t.Context(), "x"), c)); d.GetWho() != "user:uid:0" || id.ID(d.GetOn()) != c.At || id.ID(d.GetVia()) != c.Via || d.GetDid() != "CreateService" || d.GetFrom() != "" {
		t.Errorf("root's is %v", d)
	}
}

func TestWhatAnotherManagerTellsIsItsOwnWordAndBounded(t *testing.T) {
	t.Parallel()
	v := &logv1.Sight{By: id.ID{7}.Bytes(), Reason: strings.Repeat("x", 9000), Deed: &logv1.Deed{Who: strings.Repeat("y", 9000)}}
	v.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1})
	if err := Check(id.ID{2}, []*logv1.Sight{v}); err != nil || id.ID(v.GetBy()) != (id.ID{2}) || len(v.GetReason()) > 300 || len(v.GetDeed().GetWho()) > 300 || len(v.ProtoReflect().GetUnknown()) != 0 {
		t.Errorf("it is %v, %v", v, err)
	}
	if err := Check(id.ID{2}, make([]*logv1.Sight, MaxTold+1)); err == nil {
		t.Error("too many were taken")
	}
}
