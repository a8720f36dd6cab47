package control

import (
	"bytes"
	"context"
	"crypto/x509"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// NextRoot is a root that is to follow another, and what leads to it. From is nil
// if nothing is to follow: a rotation that is under way is joined.
type NextRoot struct {
	From, To *modelv1.RootKey
	Cross    []byte
}

// RootOffice says how the root is rotated.
type RootOffice interface {
	// View shows the root, without its key, and how far a rotation of it is, and a
	// condemnation.
	View(snap *store.Snapshot) *controlv1.RootView
	// Next makes or checks the root that msg asks for, or refuses msg.
	Next(ctx context.Context, c *modelv1.Cluster, msg *controlv1.RotateRootRequest) (*NextRoot, error)
	// Begin writes what msg asks for into c, the caller's own copy; at is log time.
	Begin(c *modelv1.Cluster, msg *controlv1.RotateRootRequest, next *NextRoot, by string, at int64) error
	// Abort has the rotation in c go back.
	Abort(c *modelv1.Cluster, msg *controlv1.AbortRootRotationRequest, at int64) error
	// Try returns an error unless each of the external CAs signs for the root of c, as the
	// spec of c wants it.
	Try(ctx context.Context, c *modelv1.Cluster, external []*modelv1.ExternalCA) error
	// Move has the root in c be asked for at those external CAs.
	Move(c *modelv1.Cluster, external []*modelv1.ExternalCA) error
}

const (
	// A rotation may take at least and at most this long.
	minRotation = time.Minute
	maxRotation = 90 * 24 * time.Hour
	// watchRest is the least time between two messages of a watch of the root: each
	// counts all nodes.
	watchRest = 200 * time.Millisecond
)

// GetRoot shows the root.
func (s *Server) GetRoot(ctx context.Context, _ *controlv1.GetRootRequest) (*controlv1.GetRootResponse, error) {
	snap := s.snapshot()
	if _, err := cluster(snap); err != nil {
		return nil, err
	}
	return &controlv1.GetRootResponse{Root: s.rootFor(ctx, snap)}, nil
}

// rootFor is the root as the caller may see it: who may not list users is not told
// their names.
func (s *Server) rootFor(ctx context.Context, snap *store.Snapshot) *controlv1.RootView {
	v := s.cfg.Roots.View(snap)
	if isAdmin(ctx) {
		return v
	}
	isUser := func(x *modelv1.RootStraggler) bool { return len(x.GetUser()) > 0 }
	if r := v.GetRotation(); r != nil {
		r.By, r.Stragglers = "", slices.DeleteFunc(r.GetStragglers(), isUser)
	}
	if v.GetLast() != nil {
		v.Last = proto.CloneOf(v.GetLast())
		v.Last.Stragglers = slices.DeleteFunc(v.Last.GetStragglers(), isUser)
	}
	if x := v.GetCondemnation(); x != nil {
		x.By = ""
	}
	if x := v.GetCondemned(); x != nil {
		x.Stragglers = slices.DeleteFunc(x.GetStragglers(), isUser)
	}
	return v
}

// RotateRoot begins a rotation, or joins the one that is under way. The key of the
// next root is made here and is first written by the entry.
func (s *Server) RotateRoot(ctx context.Context, msg *controlv1.RotateRootRequest) (*controlv1.RotateRootResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if _, done, err := s.earlier(ctx, req); err != nil || done {
		return s.rotating(ctx, msg), err
	}
	if err := checkRotation(msg); err != nil {
		return nil, err
	}
	if err := narrow(ctx, msg); err != nil {
		return nil, err
	}
	c, err := cluster(s.snapshot())
	if err != nil {
		return nil, err
	}
	next, err := s.cfg.Roots.Next(ctx, c, msg)
	if err != nil {
		return nil, err
	}
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		if err := s.cfg.Roots.Begin(c, asItIs(ctx, c, msg), next, req.GetCaller(), now(tx.Base())); err != nil {
			return err
		}
		return tx.PutCluster(c)
	})
	if err != nil {
		return nil, err
	}
	return s.rotating(ctx, msg), nil
}

// rotating is the answer to a request that was carried out.
func (s *Server) rotating(ctx context.Context, msg *controlv1.RotateRootRequest) *controlv1.RotateRootResponse {
	v := s.rootFor(ctx, s.snapshot())
	return &controlv1.RotateRootResponse{
		Root: v, Joined: v.GetRotation() != nil && !bytes.Equal(v.GetRotation().GetId(), msg.GetRequestId()),
	}
}

func checkRotation(msg *controlv1.RotateRootRequest) error {
	var f faults
	cert, key, outside := len(msg.GetCertificate()) > 0, len(msg.GetKey()) > 0, len(msg.GetExternal()) > 0
	f.check(cert == (key || outside), "a root is given with its certificate and either its key or the external CA that has it, or not at all")
	f.check(!key || !outside, "a root is given with its key or with the external CA that has it, not with both")
	f.check(cert || len(msg.GetCross()) == 0, "a cross certificate is given with the root that it certifies")
	f.external(msg.GetExternal())
	expiry := time.Duration(msg.GetCertExpiry())
	f.check(expiry == 0 || expiry >= ca.MinExpiry, "certificate expiry %v: at least %v", expiry, ca.MinExpiry)
	f.rotationEnd(msg.GetDeadline(), msg.GetOnStraggler())
	return f.refusal("rotation of the root")
}

// rotationEnd checks when and how a rotation is to end; zero is what it is.
func (f *faults) rotationEnd(deadline int64, policy modelv1.StragglerPolicy) {
	d := time.Duration(deadline)
	f.check(d == 0 || d >= minRotation && d <= maxRotation, "deadline %v: want %v to %v", d, minRotation, maxRotation)
	_, known := modelv1.StragglerPolicy_name[int32(policy)]
	f.check(known, "what becomes of stragglers: want wait or quarantine")
}

// AbortRootRotation goes back to the root of before.
func (s *Server) AbortRootRotation(ctx context.Context, msg *controlv1.AbortRootRotationRequest) (*controlv1.AbortRootRotationResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if _, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.AbortRootRotationResponse{Root: s.cfg.Roots.View(s.snapshot())}, err
	}
	var f faults
	f.rotationEnd(msg.GetDeadline(), msg.GetOnStraggler())
	if err := f.refusal("rotation of the root"); err != nil {
		return nil, err
	}
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		if err := s.stay(c); err != nil {
			return err
		}
		c = proto.CloneOf(c)
		if err := s.cfg.Roots.Abort(c, msg, now(tx.Base())); err != nil {
			return err
		}
		return tx.PutCluster(c)
	})
	if err != nil {
		return nil, err
	}
	return &controlv1.AbortRootRotationResponse{Root: s.cfg.Roots.View(s.snapshot())}, nil
}

// WatchRoot shows the root, and again when it or a rotation of it has moved on, at
// most every watchRest. A manager that loses the quorum ends it.
func (s *Server) WatchRoot(_ *controlv1.WatchRootRequest, stream grpc.ServerStreamingServer[controlv1.WatchRootResponse]) error {
	w := s.cfg.DB.Store().Watch(store.Key{Kind: store.KindCluster}, store.Key{Kind: store.KindNode}, store.Key{Kind: store.KindUser})
	defer w.Close()
	beat := time.NewTicker(contactBeat)
	defer beat.Stop()
	var told *controlv1.RootView
	for {
		w.Take()
		v := s.rootFor(stream.Context(), s.snapshot())
		if told == nil || moved(told, v) {
			if err := stream.Send(&controlv1.WatchRootResponse{Root: v}); err != nil {
				return err
			}
			told = v
		}
		if err := s.awaitRoot(stream.Context(), w.C(), beat.C); err != nil {
			return err
		}
	}
}

// awaitRoot returns when there may be something to tell, and not at once.
func (s *Server) awaitRoot(ctx context.Context, changed <-chan struct{}, beat <-chan time.Time) error {
	rest := time.NewTimer(watchRest)
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rest.C:
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-changed:
		return nil
	case <-beat: // a user's certificate may be over, and contact lost, by time alone
		return s.cfg.Group.Contact()
	}
}

// moved reports whether b shows what a did not, but for the time of day.
func moved(a, b *controlv1.RootView) bool {
	c := proto.CloneOf(b)
	c.Now = a.GetNow()
	return !proto.Equal(a, c)
}

// external checks where external CAs are said to be.
func (f *faults) external(cas []*modelv1.ExternalCA) {
	f.check(len(cas) <= ca.MaxExternal, "%d external CAs: at most %d", len(cas), ca.MaxExternal)
	seen := make(map[string]bool)
	for _, at := range cas {
		f.wrong("external CA", ca.CheckExternal(at.GetUrl()))
		f.check(!seen[at.GetUrl()], "external CA %s: given twice", at.GetUrl())
		seen[at.GetUrl()] = true
		f.check(len(at.GetTrust()) <= ca.MaxRoots, "external CA %s: %d certificates to trust, at most %d", at.GetUrl(), len(at.GetTrust()), ca.MaxRoots)
		for _, der := range at.GetTrust() {
			_, err := x509.ParseCertificate(der)
			f.wrong("external CA "+at.GetUrl()+": certificate to trust", err)
		}
	}
}
