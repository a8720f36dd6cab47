package node

import (
	"bufio"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/rpc"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// backupChunk is how many bytes of a backup a message holds.
const backupChunk = 64 << 10

// Backup gives the swarm's whole state to who may read this machine's disk.
func (l *local) Backup(req *localv1.BackupRequest, stream grpc.ServerStreamingServer[localv1.BackupResponse]) error {
	ctx := stream.Context()
	if err := here(ctx); err != nil {
		return err
	}
	_, life, _ := l.node.get()
	if life == nil {
		return errInactive()
	}
	v := life.look()
	if v.manager == nil {
		if v.fault != nil {
			return rpc.Errorf(errdefs.ErrUnavailable, "the manager of this node does not run: %v", v.fault)
		}
		return rpc.RefuseNotManager(l.node.managerAddresses())
	}
	w := bufio.NewWriterSize(backupStream{stream}, backupChunk)
	if err := v.manager.Backup(ctx, w, req.GetStale()); err != nil {
		return err
	}
	return w.Flush()
}

// backupStream is a backup on its way out.
type backupStream struct {
	out grpc.ServerStreamingServer[localv1.BackupResponse]
}

// Write sends p.
func (s backupStream) Write(p []byte) (int, error) {
	for part := range slices.Chunk(p, backupChunk) {
		if err := s.out.Send(&localv1.BackupResponse{Data: part}); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// restoreStream is a backup on its way in.
type restoreStream struct {
	in   grpc.ClientStreamingServer[localv1.RestoreRequest, localv1.RestoreResponse]
	rest []byte
}

// Read returns the next bytes; io.EOF when the caller has sent all.
func (s *restoreStream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		m, err := s.in.Recv()
		switch {
		case err != nil:
			return 0, err
		case m.GetOptions() != nil:
			return 0, rpc.Errorf(errdefs.ErrInvalidArgument, "restore: options in a message that is not the first")
		}
		s.rest = m.GetData()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

var _ io.Reader = (*restoreStream)(nil)
