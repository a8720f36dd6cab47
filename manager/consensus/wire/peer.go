package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/skep-project/skep/manager/consensus"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	// retryMin and retryMax bound the wait before a stream is tried again.
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
	// helloTime bounds the wait for a peer's hello.
	helloTime = 5 * time.Second
	// probeTime bounds the question whether an address refuses; probePause lies
	// between two tries.
	probeTime  = 300 * time.Millisecond
	probePause = 5 * time.Millisecond
	// snapshotTime bounds the sending of one snapshot.
	snapshotTime = 10 * time.Minute
	// leaveTime bounds the sending of what waits for a member taken out.
	leaveTime = time.Second
)

// peer is the way to one member.
type peer struct {
	t       *Transport
	id      uint64
	address string
	wake    chan struct{}        // capacity 1: "there is something to send"
	snaps   chan *raftpb.Message // capacity 1: raft sends one at a time
	leaving chan struct{}        // closed when what waits is the last
	there   chan struct{}        // capacity 1: "it has been heard: dial it now"
	stop    context.CancelFunc   // nil before it is started; guarded by t.mu

	mu     sync.Mutex        // guards the fields below
	urgent []*raftpb.Message // heartbeats, votes and answers to them
	rest   []*raftpb.Message
	bytes  int
	up     bool
}

func newPeer(t *Transport, id uint64, address string) *peer {
	return &peer{
		t: t, id: id, address: address, wake: make(chan struct{}, 1), snaps: make(chan *raftpb.Message, 1),
		there: make(chan struct{}, 1), leaving: make(chan struct{}),
	}
}

// end stops the peer's goroutines; t.mu is held.
func (p *peer) end() {
	if p.stop != nil {
		p.stop()
	}
}

// leave ends the peer's goroutines when what waits is sent; t.mu is held. The
// last word to a member that is taken out is that it is: without it the member
// would go on as one until it finds that nobody answers.
func (p *peer) leave() {
	close(p.leaving)
	if p.stop != nil {
		time.AfterFunc(leaveTime, p.stop)
	}
}

func (p *peer) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

func (p *peer) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// heard ends the wait before the next try: who opens a stream to this member is
// there, and may need this member's vote before the wait is over.
func (p *peer) heard() {
	select {
	case p.there <- struct{}{}:
	default:
	}
}

// send queues m. What cannot be sent is dropped, and raft is told if it
// counted on it.
func (p *peer) send(m *raftpb.Message, h consensus.Handler) {
	if m.GetType() == raftpb.MsgSnap {
		select {
		case p.snaps <- m:
		default:
			if h != nil {
				h.ReportSnapshot(p.id, false)
			}
		}
		return
	}
	if !p.queue(m) && m.GetType() == raftpb.MsgApp && h != nil {
		h.ReportUnreachable(p.id)
	}
}

func (p *peer) queue(m *raftpb.Message) bool {
	n := size(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up || len(p.urgent)+len(p.rest) >= queueCount || p.bytes > 0 && p.bytes+n > queueBytes {
		return false
	}
	p.bytes += n
	if first(m.GetType()) {
		p.urgent = append(p.urgent, m)
	} else {
		p.rest = append(p.rest, m)
	}
	return true
}

// size is about what m takes on the wire.
func size(m *raftpb.Message) int {
	n := 64
	for _, e := range m.GetEntries() {
		n += len(e.GetData()) + 24
	}
	return n
}

// first reports whether messages of a type go before appends (R22).
func first(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp:
		return false
	default:
		return true
	}
}

// take takes what waits, up to the size of a frame.
func (p *peer) take() []*raftpb.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*raftpb.Message
	total := 0
	for _, from := range []*[]*raftpb.Message{&p.urgent, &p.rest} {
		for len(*from) > 0 && (len(out) == 0 || total+size((*from)[0]) <= frameBytes) {
			out, total = append(out, (*from)[0]), total+size((*from)[0])
			*from = (*from)[1:]
		}
	}
	p.bytes -= total
	return out
}

// frame encodes what waits, up to the size of a frame, on the goroutine that
// sends: the one that steps the core has better things to do.
func (p *peer) frame() ([][]byte, error) {
	var out [][]byte
	for _, m := range p.take() {
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode a message: %w", err)
		}
		out = append(out, data)
	}
	return out, nil
}

// set marks the peer's stream up or down; down drops what waits.
func (p *peer) set(up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = up
	if !up {
		p.urgent, p.rest, p.bytes = nil, nil, 0
	}
}

// run keeps a stream to the peer until ctx ends.
func (p *peer) run(ctx context.Context, h consensus.Handler) {
	wait := retryMin
	said := news{}
	var probe sync.WaitGroup // of a process that lives takes a while, and its stream is not to wait for that
	defer probe.Wait()
	for ctx.Err() == nil {
		wasUp, err := p.stream(ctx)
		p.set(false)
		if ctx.Err() != nil || p.left() {
			p.stop() // for the sender of snapshots
			return
		}
		h.ReportUnreachable(p.id)
		if wasUp {
			wait, said = retryMin, news{}
			probe.Go(func() {
				if p.refuses(ctx) {
					h.PeerGone(p.id)
				}
			})
		}
		if err != nil && said.fresh(err) {
			p.t.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "stream to member broke", slog.String("member", fmt.Sprintf("%016x", p.id)), slog.String("addr", p.address), slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
		case <-p.leaving:
			p.stop()
			return
		case <-p.there:
			wait = retryMin
		case <-time.After(wait/2 + rand.N(wait)):
			wait = min(2*wait, retryMax)
		}
	}
}

// left reports whether nothing more is to be sent.
func (p *peer) left() bool {
	select {
	case <-p.leaving:
		return true
	default:
		return false
	}
}

// refuses reports whether the peer's host answers that nobody listens: its
// process is gone, for a hung one or a dark host would be silent. A process that
// dies closes its connections and its port in any order: until both are closed
// it is asked again.
func (p *peer) refuses(ctx context.Context) bool {
	ctx, stop := context.WithTimeout(ctx, probeTime)
	defer stop()
	for {
		c, err := p.t.cfg.Probe(ctx, p.address)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		case errors.Is(err, syscall.ECONNRESET): // its port was closed on the way there
		case err != nil || listens(ctx, c):
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(probePause):
		}
	}
}

// listens reports whether somebody waits at the other end of c for the first
// word, until ctx ends. The port of a dying process takes a connection, too, and
// then breaks it.
func listens(ctx context.Context, c net.Conn) bool {
	defer c.Close() // nothing was said on it
	deadline, _ := ctx.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// stream opens a stream and sends on it until it breaks. It reports whether it
// was ever up.
func (p *peer) stream(ctx context.Context) (up bool, err error) {
	conn, err := p.t.cfg.Dial(ctx, p.id, p.address)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := raftv1.NewRaftClient(conn).Stream(ctx)
	if err != nil {
		return false, err
	}
	if err := p.greet(s, cancel); err != nil {
		return false, err
	}
	p.set(true)
	p.ring()
	select {
	case <-p.there: // that was before this stream
	default:
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { // the peer says nothing more: this is how its end is noticed
		_, err := s.Recv()
		cancel(fmt.Errorf("stream ended: %w", err))
	})
	for {
		leaving := false
		select {
		case <-ctx.Done():
			return true, context.Cause(ctx)
		case <-p.leaving:
			leaving = true
		case <-p.wake:
		}
		if err := p.sendAll(s); err != nil {
			return true, err
		}
		if leaving {
			err := s.CloseSend()
			<-ctx.Done() // the peer has heard it all, or was given long enough
			return true, err
		}
	}
}

// sendAll sends what waits.
func (p *peer) sendAll(s grpc.BidiStreamingClient[raftv1.StreamRequest, raftv1.StreamResponse]) error {
	for {
		msgs, err := p.frame()
		if err != nil || len(msgs) == 0 {
			return err
		}
		if err := s.Send(&raftv1.StreamRequest{Messages: msgs}); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// greet exchanges hellos.
func (p *peer) greet(s grpc.BidiStreamingClient[raftv1.StreamRequest, raftv1.StreamResponse], cancel context.CancelCauseFunc) error {
	timer := time.AfterFunc(helloTime, func() { cancel(fmt.Errorf("no hello within %v", helloTime)) })
	defer timer.Stop()
	if err := s.Send(&raftv1.StreamRequest{Hello: p.t.cfg.Hello(), From: p.t.cfg.RaftID, To: p.id, Address: p.t.cfg.Address}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("say hello: %w", err)
	}
	answer, err := s.Recv()
	if err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	return p.t.checkHello(p.id, answer.GetHello())
}

// runSnapshots sends snapshots to the peer, one at a time.
func (p *peer) runSnapshots(ctx context.Context, h consensus.Handler) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-p.snaps:
			err := p.sendSnapshot(ctx, h, m)
			h.ReportSnapshot(p.id, err == nil)
			if err != nil && ctx.Err() == nil {
				p.t.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "snapshot was not sent", slog.String("member", fmt.Sprintf("%016x", p.id)),
					slog.Uint64("index", m.GetSnapshot().GetMetadata().GetIndex()), slog.Any("err", err))
			}
		}
	}
}

func (p *peer) sendSnapshot(ctx context.Context, h consensus.Handler, m *raftpb.Message) (err error) {
	ctx, stop := context.WithTimeout(ctx, snapshotTime)
	defer stop()
	file, err := h.OpenSnapshot(m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode snapshot message: %w", err)
	}
	conn, err := p.t.cfg.Dial(ctx, p.id, p.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	s, err := raftv1.NewRaftClient(conn).Snapshot(ctx)
	if err != nil {
		return err
	}
	return pour(s, data, file)
}

// pour sends the message, then the file. A stream that breaks says why when it
// is closed.
func pour(s grpc.ClientStreamingClient[raftv1.SnapshotRequest, raftv1.SnapshotResponse], message []byte, file io.Reader) error {
	err := s.Send(&raftv1.SnapshotRequest{Message: message})
	for err == nil {
		buf := make([]byte, chunkBytes) // gRPC may keep it
		n, rerr := io.ReadFull(file, buf)
		if n > 0 {
			err = s.Send(&raftv1.SnapshotRequest{Chunk: buf[:n]})
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return fmt.Errorf("read state: %w", rerr)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = s.CloseAndRecv()
	return err
}
