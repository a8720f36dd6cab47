package control

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestTheKeyToAnExternalCAIsNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	at := func() []*modelv1.ExternalCA {
		return []*modelv1.ExternalCA{{Url: "https://one:8888", AuthKey: []byte("hidden")}}
	}
	c := proto.CloneOf(w.snapshot().Cluster())
	c.Root.Key, c.Root.External = nil, at()
	c.Root.Rotation = &modelv1.RootRotation{From: &modelv1.RootKey{External: at()}, To: &modelv1.RootKey{External: at()}}
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
	resp, err := w.GetCluster(w.ctx(), &controlv1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(resp)
	if err != nil || bytes.Contains(data, []byte("hidden")) || resp.GetCluster().GetRoot().GetExternal()[0].GetUrl() == "" {
		t.Errorf("shown is %v, %v", resp.GetCluster().GetRoot(), err)
	}
	up, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: c.GetSpec(), External: []*modelv1.ExternalCA{{Url: "https://two:8888", AuthKey: []byte("hidden")}}})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := proto.Marshal(up); err != nil || bytes.Contains(data, []byte("hidden")) {
		t.Errorf("after an update: %v", err)
	}
	if got := w.snapshot().Cluster().GetRoot().GetExternal(); len(got) != 1 || got[0].GetUrl() != "https://two:8888" || string(got[0].GetAuthKey()) != "hidden" {
		t.Errorf("it is at %v", got)
	}
}

// TestALifeThatAnExternalCADoesNotGiveIsRefused: else nothing would be renewed any more.
func TestALifeThatAnExternalCADoesNotGiveIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c := proto.CloneOf(w.snapshot().Cluster())
	c.Root.Key, c.Root.External = nil, []*modelv1.ExternalCA{{Url: "https://one:8888"}}
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
	set := func(life time.Duration) error {
		spec := proto.CloneOf(c.GetSpec())
		spec.CertExpiry = int64(life)
		_, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: spec})
		return err
	}
	if err := set(30 * time.Minute); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half an hour: %v", err)
	}
	if err := set(2 * time.Hour); err != nil {
		t.Errorf("two hours: %v", err)
	}
	tried := w.cfg.Roots.(*rotor).tried
	if err := set(2 * time.Hour); err != nil || w.cfg.Roots.(*rotor).tried != tried {
		t.Errorf("the same again: %v; it was tried", err)
	}
}

func TestWhereAnExternalCAIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	cas := func(urls ...string) (out []*modelv1.ExternalCA) {
		for _, u := range urls {
			out = append(out, &modelv1.ExternalCA{Url: u})
		}
		return out
	}
	root := []byte("root")
	for name, tt := range map[string]struct {
		q    *controlv1.RotateRootRequest
		says string
	}{
		"without TLS":             {&controlv1.RotateRootRequest{Certificate: root, External: cas("http://one")}, "want https"},
		"twice the same":          {&controlv1.RotateRootRequest{Certificate: root, External: cas("https://one", "https://one")}, "given twice"},
		"too many":                {&controlv1.RotateRootRequest{Certificate: root, External: cas(strings.Fields(strings.Repeat("https://one ", 9))...)}, "at most 8"},
		"no root":                 {&controlv1.RotateRootRequest{External: cas("https://one")}, "a root is given with"},
		"no key":                  {&controlv1.RotateRootRequest{Certificate: root}, "a root is given with"},
		"a key besides":           {&controlv1.RotateRootRequest{Certificate: root, Key: []byte("k"), External: cas("https://one")}, "not with both"},
		"a cross of nothing":      {&controlv1.RotateRootRequest{Cross: root}, "a cross certificate is given with"},
		"trust in no certificate": {&controlv1.RotateRootRequest{Certificate: root, External: []*modelv1.ExternalCA{{Url: "https://one", Trust: [][]byte{[]byte("x")}}}}, "certificate to trust"},
	} {
		tt.q.RequestId = fresh()
		if _, err := w.RotateRoot(w.ctx(), tt.q); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
	_, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: &modelv1.ClusterSpec{Name: "default"}, External: cas("https://one")})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a swarm with a root of its own: %v", err)
	}
}
