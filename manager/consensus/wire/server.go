package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/consensus"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// server is the side that listens.
type server struct {
	raftv1.UnimplementedRaftServer
	t *Transport
}

// Server returns the service to be registered. Before Run and after it every
// call is refused.
func (t *Transport) Server() raftv1.RaftServer { return &server{t: t} }

func (s *server) handler() (consensus.Handler, error) {
	h := s.t.current()
	if h == nil {
		return nil, fmt.Errorf("consensus does not run on this manager: %w", errdefs.ErrUnavailable)
	}
	return h, nil
}

// Stream takes a peer's messages until either side ends.
func (s *server) Stream(stream grpc.BidiStreamingServer[raftv1.StreamRequest, raftv1.StreamResponse]) error {
	ctx := stream.Context()
	h, err := s.handler()
	if err != nil {
		return err
	}
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	from := in.GetFrom()
	if err := s.admit(ctx, from, in); err != nil {
		return err
	}
	// A member that has moved can be heard and not answered, until its record
	// says where it is, which may take a quorum that is only had by answering it.
	if _, _, err := net.SplitHostPort(in.GetAddress()); err == nil {
		defer s.t.heed(from, in.GetAddress())()
	}
	s.t.heard(from)
	if err := stream.Send(&raftv1.StreamResponse{Hello: s.t.cfg.Hello()}); err != nil {
		return err
	}
	for {
		if err := s.take(ctx, h, from, in.GetMessages()); err != nil {
			return err
		}
		if in, err = stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if h, err = s.handler(); err != nil {
			return err
		}
	}
}

// admit says why a stream is not for this member or from nobody it may hear.
func (s *server) admit(ctx context.Context, from uint64, in *raftv1.StreamRequest) error {
	if in.GetTo() != s.t.cfg.RaftID {
		return fmt.Errorf("stream is for member %016x, this is %016x: %w", in.GetTo(), s.t.cfg.RaftID, errdefs.ErrFailedPrecondition)
	}
	if err := s.mayBe(ctx, from); err != nil {
		return err
	}
	if err := s.t.checkHello(from, in.GetHello()); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	// A member that has moved can be heard and not answered, until its record
	// says where it is, which may take a quorum that is only had by answering it.
	if _, _, err := net.SplitHostPort(in.GetAddress()); err == nil {
		s.t.SetPeer(from, in.GetAddress())
	}
	return nil
}

func (s *server) mayBe(ctx context.Context, from uint64) error {
	if from == 0 || from == s.t.cfg.RaftID {
		return fmt.Errorf("stream from member %016x: %w", from, errdefs.ErrInvalidArgument)
	}
	if s.t.cfg.Check == nil {
		return nil
	}
	return s.t.cfg.Check(ctx, from)
}

// take gives the handler messages. One that is dropped for want of room is as
// one that the network lost.
func (s *server) take(ctx context.Context, h consensus.Handler, from uint64, msgs [][]byte) error {
	for _, data := range msgs {
		m, err := decode(data, from)
		if err != nil {
			return err
		}
		if err := h.Step(ctx, m); err != nil && !errdefs.IsResourceExhausted(err) {
			return err
		}
	}
	return nil
}

func decode(data []byte, from uint64) (*raftpb.Message, error) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("message of member %016x: %w: %w", from, err, errdefs.ErrInvalidArgument)
	}
	if from != 0 && m.GetFrom() != from {
		return nil, fmt.Errorf("member %016x sends a message of %016x: %w", from, m.GetFrom(), errdefs.ErrPermissionDenied)
	}
	return m, nil
}

// Snapshot takes a snapshot and its state.
func (s *server) Snapshot(stream grpc.ClientStreamingServer[raftv1.SnapshotRequest, raftv1.SnapshotResponse]) error {
	h, err := s.handler()
	if err != nil {
		return err
	}
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	m, err := decode(in.GetMessage(), 0)
	if err != nil {
		return err
	}
	if err := s.mayBe(stream.Context(), m.GetFrom()); err != nil {
		return err
	}
	if err := h.ReceiveSnapshot(stream.Context(), m, &chunks{stream: stream, rest: in.GetChunk()}); err != nil {
		return err
	}
	return stream.SendAndClose(&raftv1.SnapshotResponse{})
}

// Ping says who answers at this address.
func (s *server) Ping(context.Context, *raftv1.PingRequest) (*raftv1.PingResponse, error) {
	return &raftv1.PingResponse{Hello: s.t.cfg.Hello(), Clock: time.Now().UnixNano()}, nil
}

// chunks reads the file out of a snapshot stream.
type chunks struct {
	stream grpc.ClientStreamingServer[raftv1.SnapshotRequest, raftv1.SnapshotResponse]
	rest   []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		in, err := c.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end of the file
		}
		c.rest = in.GetChunk()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
