package clitest

import (
	"bytes"
	"context"
	"encoding/pem"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// A RootStory is what the fake's root goes through: Views one after the other, of
// which the last stays.
type RootStory struct {
	Views []*controlv1.RootView
	// Joined: a rotation is under way already.
	Joined bool
	// Rotate and Abort are what was asked for last.
	Rotate *controlv1.RotateRootRequest
	Abort  *controlv1.AbortRootRotationRequest
	// Condemned is who was declared compromised.
	Condemned []*controlv1.CondemnNodeRequest
}

// PEM is a root as ctl prints it.
func PEM(root []byte) string {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root}) // a buffer takes everything
	return b.String()
}

func (s *Swarm) root() *controlv1.RootView { return proto.CloneOf(s.Root.Views[0]) }

// GetRoot shows the first view.
func (s *Swarm) GetRoot(context.Context, *controlv1.GetRootRequest) (*controlv1.GetRootResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &controlv1.GetRootResponse{Root: s.root()}, s.fail("GetRoot")
}

// RotateRoot notes what was asked for and shows the first view.
func (s *Swarm) RotateRoot(_ context.Context, q *controlv1.RotateRootRequest) (*controlv1.RotateRootResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Root.Rotate = q
	return &controlv1.RotateRootResponse{Root: s.root(), Joined: s.Root.Joined}, s.fail("RotateRoot")
}

// AbortRootRotation notes what was asked for and shows the first view.
func (s *Swarm) AbortRootRotation(_ context.Context, q *controlv1.AbortRootRotationRequest) (*controlv1.AbortRootRotationResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Root.Abort = q
	if s.Root.Views[0].GetRotation() == nil {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "no rotation of the root is under way"), "ctl swarm ca shows the root and how the last rotation ended")
	}
	return &controlv1.AbortRootRotationResponse{Root: s.root()}, s.fail("AbortRootRotation")
}

// CondemnNode notes what was asked for and shows the first view.
func (s *Swarm) CondemnNode(_ context.Context, q *controlv1.CondemnNodeRequest) (*controlv1.CondemnNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Root.Condemned = append(s.Root.Condemned, q)
	return &controlv1.CondemnNodeResponse{Root: s.root(), Joined: s.Root.Joined}, s.fail("CondemnNode")
}

// WatchRoot tells the views, and breaks off in between as often as the test has it.
func (s *Swarm) WatchRoot(_ *controlv1.WatchRootRequest, stream grpc.ServerStreamingServer[controlv1.WatchRootResponse]) error {
	for {
		s.mu.Lock()
		err, v, last := s.fail("WatchRoot"), s.root(), len(s.Root.Views) == 1
		if err == nil && !last {
			s.Root.Views = s.Root.Views[1:]
		}
		s.mu.Unlock()
		if err == nil {
			err = stream.Send(&controlv1.WatchRootResponse{Root: v})
		}
		if err != nil {
			return err
		}
		if last {
			<-stream.Context().Done()
			return context.Cause(stream.Context())
		}
	}
}
