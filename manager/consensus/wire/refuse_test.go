package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/internal/id"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// sink is a handler that keeps what it is given.
type sink struct {
	mu          sync.Mutex
	steps       []*raftpb.Message
	unreachable int
	snapFailed  int
}

func (s *sink) Step(_ context.Context, m *raftpb.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, m)
	return nil
}
func (s *sink) ReceiveSnapshot(context.Context, *raftpb.Message, io.Reader) error { return nil }
func (s *sink) OpenSnapshot(*raftpb.Message) (io.ReadCloser, error)               { return nil, io.EOF }
func (s *sink) ReportUnreachable(uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unreachable++
}
func (s *sink) ReportSnapshot(_ uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		s.snapFailed++
	}
}
func (s *sink) PeerGone(uint64) {}

// serve runs a transport of member 2 and returns a client of it.
func serve(t *testing.T, hello *rpcv1.Hello, h *sink) raftv1.RaftClient {
	t.Helper()
	tr := New(Config{RaftID: 2, Hello: func() *rpcv1.Hello { return hello }, FIPS: hello.GetFips, Log: slog.New(slog.DiscardHandler)})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	raftv1.RegisterRaftServer(srv, tr.Server())
	go func() { _ = srv.Serve(lis) }()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	tr.mu.Lock()
	tr.handler = h // as Run does first
	tr.mu.Unlock()
	go func() { defer close(done); _ = tr.Run(ctx, h) }()
	conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		stop()
		<-done
	})
	return raftv1.NewRaftClient(conn)
}

func TestStreamsOfStrangersAreRefused(t *testing.T) {
	t.Parallel()
	good := &rpcv1.Hello{Cluster: id.New().Bytes(), History: id.New().Bytes(), Fips: true}
	other := func(change func(*rpcv1.Hello)) *rpcv1.Hello {
		h := proto.CloneOf(good)
		change(h)
		return h
	}
	message := func(from uint64) []byte {
		data, err := proto.Marshal(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, To: new(uint64(2))})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	h := &sink{}
	client := serve(t, good, h)
	for name, tt := range map[string]struct {
		first *raftv1.StreamRequest
		want  string
	}{
		"another cluster":           {&raftv1.StreamRequest{From: 1, To: 2, Hello: other(func(h *rpcv1.Hello) { h.Cluster = id.New().Bytes() })}, "another cluster"},
		"another history":           {&raftv1.StreamRequest{From: 1, To: 2, Hello: other(func(h *rpcv1.Hello) { h.History = id.New().Bytes() })}, "force-new-cluster"},
		"not in FIPS mode":          {&raftv1.StreamRequest{From: 1, To: 2, Hello: other(func(h *rpcv1.Hello) { h.Fips = false })}, "ctl daemon --fips"},
		"for another member":        {&raftv1.StreamRequest{From: 1, To: 3, Hello: good}, "is for member"},
		"from nobody":               {&raftv1.StreamRequest{To: 2, Hello: good}, "from member"},
		"from itself":               {&raftv1.StreamRequest{From: 2, To: 2, Hello: good}, "from member"},
		"in another member's name":  {&raftv1.StreamRequest{From: 1, To: 2, Hello: good, Messages: [][]byte{message(3)}}, "sends a message of"},
		"what is no message at all": {&raftv1.StreamRequest{From: 1, To: 2, Hello: good, Messages: [][]byte{{0xff}}}, "message of member"},
	} {
		s, err := client.Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(tt.first); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = s.Recv()
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.steps) != 0 {
		t.Errorf("%d messages of strangers were taken", len(h.steps))
	}
}

// TestAPeerThatHasMovedIsAnsweredWhereItIs: what it says on an open stream counts
// for more than any record, old or new; without a stream the record counts.
func TestAPeerThatHasMovedIsAnsweredWhereItIs(t *testing.T) {
	t.Parallel()
	hello := &rpcv1.Hello{Cluster: id.New().Bytes(), History: id.New().Bytes()}
	tr := New(Config{RaftID: 2, Hello: func() *rpcv1.Hello { return hello }, Log: slog.New(slog.DiscardHandler)})
	tr.handler = &sink{}
	conn, err := grpc.NewClient("passthrough:///"+listen(t, tr), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	says := func(address string, hello *rpcv1.Hello) (hangUp context.CancelFunc) {
		ctx, stop := context.WithCancel(t.Context())
		s, err := raftv1.NewRaftClient(conn).Stream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&raftv1.StreamRequest{From: 1, To: 2, Hello: hello, Address: address}) // a refusal comes with Recv
		_, _ = s.Recv()
		return stop
	}
	at := func() string {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.peers[1].address
	}
	tr.SetPeer(1, "10.0.0.1:2377")
	says("", hello)()
	says("nonsense", hello)()
	says("10.0.0.66:2377", &rpcv1.Hello{Cluster: hello.GetCluster(), History: id.New().Bytes()})()
	if got := at(); got != "10.0.0.1:2377" {
		t.Errorf("it is answered at %s because of no address or a stranger's", got)
	}
	old := says("10.0.0.8:2377", hello)
	end := says("10.0.0.9:2377", hello)
	old()
	tr.SetPeer(1, "10.0.0.1:2377") // its record, read from the log
	if got := at(); got != "10.0.0.9:2377" {
		t.Errorf("it is answered at %s, not where it says", got)
	}
	end()
	until(t, func() bool { return at() == "10.0.0.1:2377" })
}

// TestAProcessIsGoneWhenItsPortIsClosed: the connections of one that dies may
// break before its port does.
func TestAProcessIsGoneWhenItsPortIsClosed(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		reset int   // connections that are broken before they are taken
		dying int   // connections after those that are taken and broken
		then  error // of the next try; nil: it is taken and nothing is said
		want  bool
	}{
		"closed already":       {0, 0, refused, true},
		"closed on the way":    {2, 0, refused, true},
		"closed after a while": {1, 3, refused, true},
		"listens":              {0, 0, nil, false},
		"dies for ever":        {0, 1 << 20, nil, false},
		"breaks for ever":      {1 << 20, 0, nil, false},
		"is silent":            {0, 0, context.DeadlineExceeded, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			tr := New(Config{RaftID: 2, Probe: func(context.Context, string) (net.Conn, error) {
				tries++
				ours, theirs := net.Pipe()
				t.Cleanup(func() { _ = theirs.Close() })
				switch {
				case tries <= tt.reset:
					return nil, &net.OpError{Op: "dial", Err: syscall.ECONNRESET}
				case tries <= tt.reset+tt.dying:
					return ours, theirs.Close()
				case tt.then != nil:
					return nil, tt.then
				}
				return ours, nil
			}})
			began := time.Now()
			if got := newPeer(tr, 1, "x").refuses(t.Context()); got != tt.want {
				t.Errorf("%s: gone %v, want %v", name, got, tt.want)
			}
			if took := time.Since(began); took > probeTime {
				t.Errorf("%s: asked for %v, want %v at most", name, took, probeTime)
			}
		})
	}
}

// TestAPeerThatComesBackIsDialledAtOnce: the wait before the next try has grown
// while it was away, and its return may be what an election waits for.
func TestAPeerThatComesBackIsDialledAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hello := &rpcv1.Hello{Cluster: id.New().Bytes(), History: id.New().Bytes()}
		dials := 0
		tr := New(Config{
			RaftID: 2, Hello: func() *rpcv1.Hello { return hello }, Log: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, uint64, string) (*grpc.ClientConn, error) {
				dials++
				return nil, errors.New("nobody there")
			},
		})
		tr.SetPeer(1, "10.0.0.1:2377")
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = tr.Run(ctx, &sink{}) })
		time.Sleep(10 * time.Second) // of the bubble's
		synctest.Wait()
		before := dials
		tr.heard(1)
		synctest.Wait()
		if dials != before+1 {
			t.Errorf("dialled %d times when it was heard, want once more than %d", dials, before)
		}
		stop()
		wg.Wait()
	})
}

func TestHeartbeatsGoFirstAndNothingWaitsWithoutBound(t *testing.T) {
	t.Parallel()
	tr := New(Config{RaftID: 1, Log: slog.New(slog.DiscardHandler)})
	p := newPeer(tr, 2, "x")
	h := &sink{}
	app := &raftpb.Message{Type: raftpb.MsgApp.Enum(), Entries: []*raftpb.Entry{{Data: make([]byte, 1<<20)}}}
	p.send(app, h)
	if h.unreachable != 1 {
		t.Error("a message to a peer without a stream was not reported")
	}
	p.set(true)
	for range 30 {
		p.send(app, h)
	}
	if h.unreachable < 10 || p.bytes > queueBytes {
		t.Errorf("%d bytes wait and %d were reported dropped", p.bytes, h.unreachable)
	}
	p.send(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum()}, h)
	if got := p.take(); len(got) == 0 || got[0].GetType() != raftpb.MsgHeartbeat {
		t.Errorf("first in the frame is %v, want the heartbeat", got)
	}
	snap := &raftpb.Message{Type: raftpb.MsgSnap.Enum()}
	p.send(snap, h)
	p.send(snap, h)
	if h.snapFailed != 1 {
		t.Errorf("%d snapshots reported failed, want the second", h.snapFailed)
	}
}
