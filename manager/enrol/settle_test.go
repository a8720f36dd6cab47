package enrol_test

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/enrol"
)

// TestOnlyThePresentCertificateIsSettled: what an external CA took too long for is not
// the node's any more.
func TestOnlyThePresentCertificateIsSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := enrol.NewMembers(w.db)
	node := w.node(t, asManager).Get().Identity.Node
	as := proto.CloneOf(w.store.Snapshot().Node(node).GetCurrent())
	as.Serial, as.NotBefore, as.NotAfter, as.IssuedAt = []byte("another"), 2, time.Now().Add(time.Hour).UnixNano(), 3
	if err := m.SettleNode(t.Context(), node, as); err != nil {
		t.Fatal(err)
	}
	if got := w.store.Snapshot().Node(node).GetCurrent(); !proto.Equal(got, as) {
		t.Errorf("recorded is %v, want %v", got, as)
	}
	for name, change := range map[string]func(){
		"another key":        func() { as.KeySha256 = []byte("x") },
		"another root":       func() { as.Issuer = []byte("x") },
		"another generation": func() { as.Generation++ },
	} {
		was := proto.CloneOf(as)
		change()
		if err := m.SettleNode(t.Context(), node, as); !errdefs.IsAborted(err) {
			t.Errorf("%s: %v", name, err)
		}
		as = was
	}
	if err := m.SettleNode(t.Context(), id.New(), as); !errdefs.IsPermissionDenied(err) {
		t.Errorf("of a node that was removed: %v", err)
	}
	if err := m.SettleUser(t.Context(), id.New(), as); !errdefs.IsNotFound(err) {
		t.Errorf("of a user that was removed: %v", err)
	}
}
