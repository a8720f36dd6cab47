package wire

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/id"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestTheLastWordReachesAMemberThatIsTakenOut: the word that its removal is
// committed is queued a moment before the others forget it.
func TestTheLastWordReachesAMemberThatIsTakenOut(t *testing.T) {
	t.Parallel()
	hello := &rpcv1.Hello{Cluster: id.New().Bytes(), History: id.New().Bytes()}
	heard := &sink{}
	to := New(Config{RaftID: 2, Hello: func() *rpcv1.Hello { return hello }, Log: slog.New(slog.DiscardHandler)})
	to.handler = heard
	address := listen(t, to)
	from := New(Config{
		RaftID: 1, Hello: func() *rpcv1.Hello { return hello }, Log: slog.New(slog.DiscardHandler),
		Dial: func(_ context.Context, _ uint64, address string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- from.Run(ctx, &sink{}) }()
	const rounds = 20
	for i := range uint64(rounds) {
		from.SetPeer(2, address)
		until(t, func() bool { return from.Connected(2) })
		from.Send([]*raftpb.Message{{Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Commit: &i}})
		from.RemovePeer(2)
	}
	until(t, func() bool {
		heard.mu.Lock()
		defer heard.mu.Unlock()
		return len(heard.steps) == rounds
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// listen serves a transport on loopback until the test ends.
func listen(t *testing.T, tr *Transport) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	raftv1.RegisterRaftServer(srv, tr.Server())
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(srv.Stop)
	return lis.Addr().String()
}

// until waits until ok holds, ten seconds at most.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("not within ten seconds")
}
