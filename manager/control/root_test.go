package control

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// rotor keeps the promises of the office that rotates the root: it begins one
// rotation and joins it.
type rotor struct{ made, tried int }

func (*rotor) View(snap *store.Snapshot) *controlv1.RootView {
	v := &controlv1.RootView{Certificates: snap.Cluster().GetRoot().GetCertificates(), Now: snap.Now().UnixNano(), Last: snap.Cluster().GetRoot().GetLast()}
	if r := snap.Cluster().GetRoot().GetRotation(); r != nil {
		v.Rotation = &controlv1.RotationView{Id: r.GetId(), By: r.GetBy(), Deadline: r.GetDeadline()}
	}
	return v
}

func (r *rotor) Next(_ context.Context, c *modelv1.Cluster, _ *controlv1.RotateRootRequest) (*NextRoot, error) {
	if c.GetRoot().GetRotation() != nil {
		return &NextRoot{}, nil
	}
	r.made++
	return &NextRoot{From: &modelv1.RootKey{Certificate: c.GetRoot().GetCertificates()[0], Key: c.GetRoot().GetKey()},
		To: &modelv1.RootKey{Certificate: []byte("next"), Key: []byte("the next very secret")}, Cross: []byte("cross")}, nil
}

func (*rotor) Begin(c *modelv1.Cluster, msg *controlv1.RotateRootRequest, next *NextRoot, by string, at int64) error {
	if next.To != nil {
		c.Root.Rotation = &modelv1.RootRotation{Id: msg.GetRequestId(), From: next.From, To: next.To, By: by, Deadline: at}
	}
	return nil
}

func (*rotor) Abort(c *modelv1.Cluster, _ *controlv1.AbortRootRotationRequest, _ int64) error {
	if c.GetRoot().GetRotation() == nil {
		return errdefs.ErrFailedPrecondition
	}
	c.Root.Rotation = nil
	return nil
}

// Try has one that signs for an hour.
func (r *rotor) Try(_ context.Context, c *modelv1.Cluster, external []*modelv1.ExternalCA) error {
	r.tried += len(external)
	if len(external) > 0 && c.GetSpec().GetCertExpiry() > 0 && time.Duration(c.GetSpec().GetCertExpiry()) < time.Hour {
		return errdefs.ErrInvalidArgument
	}
	return nil
}

func (*rotor) Move(c *modelv1.Cluster, external []*modelv1.ExternalCA) error {
	if len(c.GetRoot().GetExternal()) == 0 {
		return errdefs.ErrFailedPrecondition
	}
	c.Root.External = external
	return nil
}

func TestARotationIsBegunOnceAndJoined(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	req := &controlv1.RotateRootRequest{RequestId: fresh()}
	first, err := w.RotateRoot(w.ctx(), req)
	if err != nil || first.GetJoined() || first.GetRoot().GetRotation() == nil {
		t.Fatalf("begun: %v, %v", first, err)
	}
	again, err := w.RotateRoot(w.ctx(), req)
	if err != nil || again.GetJoined() || !bytes.Equal(again.GetRoot().GetRotation().GetId(), req.GetRequestId()) {
		t.Errorf("its retry: %v, %v", again, err)
	}
	other, err := w.RotateRoot(w.ctx(), &controlv1.RotateRootRequest{RequestId: fresh()})
	if err != nil || !other.GetJoined() || !bytes.Equal(other.GetRoot().GetRotation().GetId(), req.GetRequestId()) {
		t.Errorf("another's: %v, %v", other, err)
	}
	if n := w.cfg.Roots.(*rotor).made; n != 1 {
		t.Errorf("%d roots were made", n)
	}
	if _, err := w.AbortRootRotation(w.ctx(), &controlv1.AbortRootRotationRequest{RequestId: fresh()}); err != nil {
		t.Error(err)
	}
	if _, err := w.AbortRootRotation(w.ctx(), &controlv1.AbortRootRotationRequest{RequestId: fresh()}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("aborted twice: %v", err)
	}
}

func TestNoKeyOfARootIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	rotated, err := w.RotateRoot(w.ctx(), &controlv1.RotateRootRequest{RequestId: fresh()})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := w.GetCluster(w.ctx(), &controlv1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := w.GetRoot(w.ctx(), &controlv1.GetRootRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []proto.Message{rotated, shown, root} {
		if data, err := proto.Marshal(m); err != nil || bytes.Contains(data, []byte("very secret")) {
			t.Errorf("%T holds a key (%v)", m, err)
		}
	}
	if shown.GetCluster().GetRoot().GetRotation().GetTo() == nil {
		t.Error("the rotation is not shown at all")
	}
}

func TestUsersAreNamedToWhoMayListThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: func() *modelv1.Cluster {
		c := proto.CloneOf(w.snapshot().Cluster())
		c.Root.Last = &modelv1.RootRotationEnd{LeftBehind: 2, Stragglers: []*modelv1.RootStraggler{{Node: num(2).Bytes(), Name: "dev02"}, {User: num(9).Bytes(), Name: "alice"}}}
		c.Root.Rotation = &modelv1.RootRotation{Id: fresh(), By: "user:alice"}
		return c
	}()}})
	for role, names := range map[modelv1.UserRole]bool{modelv1.UserRole_USER_ROLE_VIEWER: false, modelv1.UserRole_USER_ROLE_ADMIN: true} {
		ctx := rpc.WithCaller(t.Context(), rpc.Caller{Kind: rpc.User, User: "bob", Rights: role})
		root, err := w.GetRoot(ctx, &controlv1.GetRootRequest{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(root)
		if err != nil || bytes.Contains(data, []byte("alice")) != names || !bytes.Contains(data, []byte("dev02")) || root.GetRoot().GetLast().GetLeftBehind() != 2 {
			t.Errorf("a %v is shown %v (%v)", role, root, err)
		}
		shown, err := w.GetCluster(ctx, &controlv1.GetClusterRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := proto.Marshal(shown); err != nil || bytes.Contains(data, []byte("alice")) {
			t.Errorf("the cluster names a user (%v)", err)
		}
	}
	if len(w.snapshot().Cluster().GetRoot().GetLast().GetStragglers()) != 2 {
		t.Error("the record itself was changed")
	}
}

func TestRotationsWithoutSenseAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for name, msg := range map[string]*controlv1.RotateRootRequest{
		"a certificate alone": {Certificate: []byte("x")},
		"a key alone":         {Key: []byte("very secret")},
		"a short expiry":      {CertExpiry: int64(time.Second)},
		"a short deadline":    {Deadline: 1},
		"a long deadline":     {Deadline: int64(1000 * 24 * time.Hour)},
		"another policy":      {OnStraggler: 17},
	} {
		msg.RequestId = fresh()
		_, err := w.RotateRoot(w.ctx(), msg)
		if !errdefs.IsInvalidArgument(err) || bytes.Contains([]byte(err.Error()), []byte("very secret")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.snapshot().Cluster().GetRoot().GetRotation() != nil {
		t.Error("a rotation was begun")
	}
}

// watching collects what a watch of the root tells.
type watching struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // a stream has one
	told []*controlv1.RootView
}

func (s *watching) Context() context.Context { return s.ctx }
func (s *watching) Send(m *controlv1.WatchRootResponse) error {
	s.told = append(s.told, m.GetRoot())
	return nil
}

func TestAWatchOfTheRootTellsWhatMovesAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		ctx, stop := context.WithCancel(w.ctx())
		s := &watching{ctx: ctx}
		ended := make(chan error, 1)
		go func() { ended <- w.WatchRoot(&controlv1.WatchRootRequest{}, s) }()
		time.Sleep(10 * time.Second)
		if _, err := w.RotateRoot(w.ctx(), &controlv1.RotateRootRequest{RequestId: fresh()}); err != nil {
			t.Fatal(err)
		}
		for range 50 { // a node that beats is no news
			w.do(&logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{Node: num(1).Bytes(), Status: &modelv1.NodeStatus{Session: 1}}}})
			time.Sleep(20 * time.Millisecond)
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		if len(s.told) != 2 || s.told[0].GetRotation() != nil || s.told[1].GetRotation() == nil {
			t.Errorf("told %v", s.told)
		}
	})
}
