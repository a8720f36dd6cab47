package conn

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
)

// somebody is a context whose certificate ends at a time.
func somebody(notAfter time.Time) *wallet.Context {
	return &wallet.Context{Credential: &ca.UserCredential{Identity: ca.UserIdentity{Name: "alice", NotAfter: notAfter}}}
}

func TestWhatKeepsAManagerFromAnsweringIsSaidInWords(t *testing.T) {
	t.Parallel()
	broke := rpc.Errorf(errdefs.ErrUnavailable, "connection error: desc = transport")
	alert := rpc.Errorf(errdefs.ErrUnavailable, "error reading server preface: remote error: tls: bad certificate")
	later, ago := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for _, tt := range []struct {
		name     string
		cause    error // of the dial, or of judging who answers
		err      error
		notAfter time.Time
		want     string
		hint     string
	}{
		{"nobody listens", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, broke, later, "tcp://m1:2377: nobody listens there", ""},
		{"no such name", &net.DNSError{Err: "no such host", Name: "m1"}, broke, later, "tcp://m1:2377: the name is not known", ""},
		{"nothing comes back", nil, context.DeadlineExceeded, later, "tcp://m1:2377: no answer within 2s", ""},
		{"a worker answers", errors.New("node x answers with a worker's certificate"), broke, later, "tcp://m1:2377: node x answers with a worker's", ""},
		{"it hangs up on a good certificate", nil, alert, later, "it does not take the certificate of user alice", ""},
		{"it hangs up on an old one", nil, alert, ago, "certificate of user alice expired at ", "ctl user renew alice"},
		{"it breaks off", nil, broke, later, "the connection broke", ""},
		{"it refuses", nil, rpc.Errorf(errdefs.ErrPermissionDenied, "user alice was removed"), later, "user alice was removed", ""},
	} {
		a := &attempt{host: Host{Address: "m1:2377"}, who: somebody(tt.notAfter), err: tt.cause}
		c := (&Conn{hosts: []Host{a.host}}).Through(Remote{Who: a.who})
		err := a.words(tt.err)
		if !final(err) {
			err = c.nobody([]error{err})
			if say.Code(err) != say.Unreachable {
				t.Errorf("%s: exit %d", tt.name, say.Code(err))
			}
		}
		var hinted *say.Error
		if !strings.Contains(err.Error(), tt.want) || tt.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint, tt.hint)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestManagersAreTriedWithTheLastGoodOneFirst(t *testing.T) {
	t.Parallel()
	who := somebody(time.Now())
	who.Last = "c:1"
	who.Managers = &cav1.ManagerList{}
	for i, a := range []string{"a:1", "b:1", "c:1"} {
		who.Managers.Managers = append(who.Managers.Managers, &cav1.Manager{Node: id.ID{byte(i + 1)}.Bytes(), Address: a, Keys: [][]byte{make([]byte, 32)}})
	}
	var got []string
	for _, h := range Managers(who) {
		got = append(got, h.Address)
		if h.Peer.Node.IsZero() || len(h.Peer.Keys) != 1 {
			t.Errorf("%s may be anybody: %+v", h, h.Peer)
		}
	}
	if strings.Join(got, " ") != "c:1 a:1 b:1" {
		t.Errorf("tried in the order %v", got)
	}
}

// What may have been done is asked for again only where the same caller is known:
// over the network instead of a socket it would be somebody else's request.
func TestAChangeOfUnknownEndIsNotCarriedToAnotherCaller(t *testing.T) {
	t.Parallel()
	c := &Conn{hosts: []Host{{Address: "a:1"}, {Path: "/x"}, {Address: "b:1"}, {Path: "/y"}}}
	for at, want := range [][]bool{{true, false, true, false}, {false, true, false, true}, {true, false, true, false}, {false, true, false, true}} {
		c.at = at
		for other := range c.hosts {
			if got := c.sameCaller(other); got != want[other] {
				t.Errorf("from %s to %s: same caller %v", c.hosts[at], c.hosts[other], got)
			}
		}
	}
}

func TestAManagerIsNotAskedByNobody(t *testing.T) {
	t.Parallel()
	c := New((say.Streams{}).Filled(), []Host{{Address: "127.0.0.1:1"}})
	err := c.open(t.Context())
	if err == nil || say.Code(err) != say.Misused || !strings.Contains(err.Error(), "there is no context") {
		t.Errorf("without a context: %v", err)
	}
}
