package manager

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/connectivity"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
)

func TestNoConnectionIsMadeAfterTheManagerHasClosedThem(t *testing.T) {
	t.Parallel()
	l := newLinks(&ca.Holder{}, nil)
	if _, err := l.to(id.New(), "192.0.2.1:1"); err != nil {
		t.Fatal(err)
	}
	l.close()
	if _, err := l.to(id.New(), "192.0.2.1:1"); !errdefs.IsUnavailable(err) || len(l.conns) != 0 {
		t.Errorf("a call that came late: %v with %d connections, want it refused and none", err, len(l.conns))
	}
}

// TestAConnectionIsMadeAnewWhenTheCertificateIs: one that was opened with a
// certificate long superseded is refused, and it would be kept for ever.
func TestAConnectionIsMadeAnewWhenTheCertificateIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		holder := &ca.Holder{}
		holder.Set(&ca.Credential{})
		l := newLinks(holder, nil)
		defer l.close()
		node := id.New()
		first, err := l.to(node, "192.0.2.1:1")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := l.to(node, "192.0.2.1:1"); err != nil || again != first {
			t.Errorf("asked again: %v and another connection: %v", err, again != first)
		}
		holder.Set(&ca.Credential{})
		next, err := l.to(node, "192.0.2.1:1")
		if err != nil || next == first {
			t.Fatalf("after the renewal: %v and another connection: %v", err, next != first)
		}
		time.Sleep(formerLife / 2)
		if s := first.GetState(); s == connectivity.Shutdown {
			t.Error("the former connection is closed under what is under way on it")
		}
		time.Sleep(formerLife)
		if s := first.GetState(); s != connectivity.Shutdown || len(l.former) != 0 {
			t.Errorf("later the former connection is %v, %d are kept", s, len(l.former))
		}
	})
}

// TestALeaderThatWasAwayIsDialledWhenItIsNeeded: a connection that failed waits
// up to two seconds, and a call to the new leader would wait with it.
func TestALeaderThatWasAwayIsDialledWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		l := newLinks(&ca.Holder{}, rpc.Through(func(context.Context, string) (net.Conn, error) {
			dials++
			return nil, errors.New("nobody there")
		}))
		defer l.close()
		node := id.New()
		conn, err := l.to(node, "192.0.2.1:1")
		if err != nil {
			t.Fatal(err)
		}
		conn.Connect()
		time.Sleep(20 * time.Second) // of the bubble's
		synctest.Wait()
		before := dials
		if _, err := l.to(node, "192.0.2.1:1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if dials != before+1 {
			t.Errorf("dialled %d times, want once more than %d", dials, before)
		}
	})
}
