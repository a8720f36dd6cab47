package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

func TestEveryMethodOfTheHouseHasAPolicy(t *testing.T) {
	t.Parallel()
	for _, desc := range []*grpc.ServiceDesc{
		&cav1.Authority_ServiceDesc, &controlv1.Control_ServiceDesc, &dispatchv1.Dispatch_ServiceDesc,
		&localv1.Local_ServiceDesc, &raftv1.Raft_ServiceDesc, &raftv1.Members_ServiceDesc,
	} {
		methods, err := policies(desc)
		if err != nil {
			t.Error(err)
		}
		if len(methods) != len(desc.Methods)+len(desc.Streams) {
			t.Errorf("%s: %d policies for %d methods", desc.ServiceName, len(methods), len(desc.Methods)+len(desc.Streams))
		}
	}
}

func TestAServiceWithoutPolicyIsNotServed(t *testing.T) {
	t.Parallel()
	s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	healthv1.RegisterHealthServer(s, healthv1.UnimplementedHealthServer{})
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "/grpc.health.v1.Health/Check: it has no policy") {
		t.Errorf("check says %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ServeUnix(l); err == nil {
		t.Error("it serves")
	}
}

func TestErrorsCrossTheWireWithTheirKindTextAndRefusal(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrAborted, errdefs.ErrOutOfRange,
		errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable, errdefs.ErrDataLoss,
		errdefs.ErrUnauthenticated, context.DeadlineExceeded, context.Canceled,
	} {
		sent := fmt.Errorf("place task t1: node n1: %w", kind)
		got := fromStatus(toStatus(sent))
		if !errors.Is(got, kind) || got.Error() != sent.Error() {
			t.Errorf("%v arrives as %v (kind kept: %v)", sent, got, errors.Is(got, kind))
		}
		got = fromStatus(toStatus(fmt.Errorf("outer: %w", Refuse(Errorf(kind, "short words"), "do this", &rpcv1.Behind{Applied: 9}))))
		if got.Error() != "outer: short words" || HintOf(got) != "do this" || RefusalOf(got).GetBehind().GetApplied() != 9 || !errors.Is(got, kind) {
			t.Errorf("kind %v with a refusal arrives as %v, hint %q", kind, got, HintOf(got))
		}
	}
	if got := fromStatus(toStatus(fmt.Errorf("x: %w", errdefs.ErrConflict))); !errdefs.IsAborted(got) {
		t.Errorf("a conflict arrives as %v, want aborted", got)
	}
	if status.Code(toStatus(errors.New("plain"))) != codes.Unknown || toStatus(nil) != nil || fromStatus(nil) != nil {
		t.Error("errors without a kind, or none, are changed")
	}
}

func TestFreshnessReadsBack(t *testing.T) {
	t.Parallel()
	want := Freshness{Stale: true, Applied: 7, InContact: true, Silence: 3 * time.Second}
	if got, ok := FreshnessOf(want.header()); !ok || got != want {
		t.Errorf("%+v reads as %+v, %v", want, got, ok)
	}
	if _, ok := FreshnessOf(metadata.Pairs(mdFresh, "nonsense")); ok {
		t.Error("nonsense was read")
	}
}

func TestCallersHaveOneName(t *testing.T) {
	t.Parallel()
	n := id.New()
	for want, c := range map[string]Caller{
		"node:" + n.String(): {Kind: Node, Node: n},
		"user:uid:0":         {Kind: User, User: "uid:0", At: n},
		"user:alice":         {Kind: User, User: "alice", Person: ca.UserIdentity{User: n}},
		"anyone":             {},
	} {
		if c.Key() != want {
			t.Errorf("%+v is %q, want %q", c, c.Key(), want)
		}
	}
}

func FuzzPassport(f *testing.F) {
	f.Add(`{"kind":1,"node":"0000000000000000000000000","key":"AA=="}`)
	f.Add(`{"kind":2,"user":"uid:0"}`)
	f.Add(`{"kind":2,"user":"alice","person":"0000000000000000000000001","key":"AA=="}`)
	f.Add(`{"kind":7}`)
	f.Add(`[`)
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := readPassport(text)
		if err == nil && (c.Local || !c.Via.IsZero()) {
			t.Errorf("%q makes a caller that claims %+v", text, c)
		}
	})
}

// local answers as its function does.
type local struct {
	localv1.UnimplementedLocalServer
	info func(ctx context.Context) error
}

func (l local) Info(ctx context.Context, _ *localv1.InfoRequest) (*localv1.InfoResponse, error) {
	return &localv1.InfoResponse{}, l.info(ctx)
}

// socket serves impl on a unix socket and returns the server and a connection.
func socket(t *testing.T, cfg Config, info func(context.Context) error) (*Server, *grpc.ClientConn) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Offer(&controlv1.Control_ServiceDesc)
	localv1.RegisterLocalServer(s, local{info: info})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeUnix(l) }()
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		s.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	cc, err := DialUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return s, cc
}

func TestTheSocketKnowsItsUser(t *testing.T) {
	t.Parallel()
	var got Caller
	var bound bool
	_, cc := socket(t, Config{}, func(ctx context.Context) error {
		got, _ = FromContext(ctx)
		_, bound = ctx.Deadline()
		return nil
	})
	if _, err := localv1.NewLocalClient(cc).Info(t.Context(), &localv1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if got.Kind != User || !got.Local || got.User != fmt.Sprintf("uid:%d", os.Geteuid()) {
		t.Errorf("the caller is %+v", got)
	}
	if !bound {
		t.Error("the call has no deadline")
	}
}

func TestAPanicEndsItsRequestOnly(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	_, cc := socket(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(context.Context) error { panic("boom 4711") })
	_, err := localv1.NewLocalClient(cc).Info(t.Context(), &localv1.InfoRequest{})
	if !errdefs.IsInternal(err) || strings.Contains(err.Error(), "4711") {
		t.Errorf("the client is told %v", err)
	}
	if _, err = localv1.NewLocalClient(cc).Info(t.Context(), &localv1.InfoRequest{}); !errdefs.IsInternal(err) {
		t.Errorf("the next request: %v", err)
	}
	if !strings.Contains(log.String(), "boom 4711") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestABrokenInvariantIsNotForgiven(t *testing.T) {
	t.Parallel()
	s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("the panic of a broken invariant was swallowed")
		}
	}()
	_ = s.recovered("invariant: applied 3 after 5", "/x/Y", nil)
}

func TestWhatIsNotMountedIsRefusedAsByNoManager(t *testing.T) {
	t.Parallel()
	s, cc := socket(t, Config{Managers: func() []string { return []string{"10.0.0.1:2377"} }}, func(context.Context) error { return nil })
	api := controlv1.NewControlClient(cc)
	_, err := api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{})
	if err == nil || err.Error() != "this node is not a manager" || !errdefs.IsFailedPrecondition(err) ||
		!strings.Contains(HintOf(err), "10.0.0.1:2377") || len(RefusalOf(err).GetNotManager().GetAddresses()) != 1 {
		t.Errorf("a call: %v, hint %q", err, HintOf(err))
	}
	watch, err := api.WatchService(t.Context(), &controlv1.WatchServiceRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if RefusalOf(err).GetNotManager() == nil {
		t.Errorf("a stream: %v", err)
	}
	// Made a manager: the same socket serves it.
	s.SetOffice(nil, alone{})
	s.Mount(&controlv1.Control_ServiceDesc, controlv1.UnimplementedControlServer{})
	if _, err := api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("once mounted: %v, want the implementation's own answer", err)
	}
	s.Mount(&controlv1.Control_ServiceDesc, nil)
	if _, err := api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{}); RefusalOf(err).GetNotManager() == nil {
		t.Errorf("once unmounted: %v", err)
	}
}

// TestAManagerThatComesIsWaitedFor: its users ask again, as they do of any
// manager that is away for a moment.
func TestAManagerThatComesIsWaitedFor(t *testing.T) {
	t.Parallel()
	_, cc := socket(t, Config{Coming: func() bool { return true }}, func(context.Context) error { return nil })
	api := controlv1.NewControlClient(cc)
	_, err := api.RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{})
	if !errdefs.IsUnavailable(err) || RefusalOf(err).GetNotManager() != nil {
		t.Errorf("a call: %v, want unavailable", err)
	}
	watch, err := api.WatchService(t.Context(), &controlv1.WatchServiceRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if !errdefs.IsUnavailable(err) {
		t.Errorf("a stream: %v, want unavailable", err)
	}
}

// ending answers every call with one error.
type ending struct {
	controlv1.UnimplementedControlServer
	err error
}

func (e ending) RemoveNode(context.Context, *controlv1.RemoveNodeRequest) (*controlv1.RemoveNodeResponse, error) {
	return nil, e.err
}

// TestAnUnknownEndIsToldAsOne: a client asks again for a change that may have
// been made, and must not take an error without a kind for that.
func TestAnUnknownEndIsToldAsOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err     error
		unknown bool
	}{
		{Errorf(errdefs.ErrUnknown, "whether it was done is not known"), true},
		{errors.New("something else"), false},
	} {
		s, cc := socket(t, Config{}, func(context.Context) error { return nil })
		s.SetOffice(nil, alone{})
		s.Mount(&controlv1.Control_ServiceDesc, ending{err: tt.err})
		_, err := controlv1.NewControlClient(cc).RemoveNode(t.Context(), &controlv1.RemoveNodeRequest{})
		if got := RefusalOf(err).GetUnknown() != nil; err == nil || got != tt.unknown {
			t.Errorf("%v comes as %v, told as unknown: %v", tt.err, err, got)
		}
	}
}

// alone leads by itself.
type alone struct{}

func (alone) IsLeader() bool                                 { return true }
func (alone) Conn(context.Context) (*grpc.ClientConn, error) { return nil, RefuseNoLeader(nil, 1, 1) }
func (alone) Barrier(context.Context) error                  { return nil }
func (alone) StaleOK(context.Context) error                  { return nil }
func (alone) Following(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}
func (alone) Freshness() Freshness { return Freshness{} }

func TestOtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	s := &Server{cfg: Config{UID: 1000}}
	for uid, ok := range map[uint32]bool{0: true, 1000: true, 1001: false} {
		c := &call{link: &link{user: true, uid: uid}}
		s.cfg.Credential = &ca.Holder{}
		err := s.identify(t.Context(), c, nil)
		if (err == nil) != ok {
			t.Errorf("uid %d: %v, want ok %v", uid, err, ok)
		}
	}
}
