package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// news is what a link tells the client's loop.
type news uint8

const (
	welcomed  news = iota // the manager has said its hello
	confirmed             // the leader has accounted for another beat
	doubted               // a beat has waited for a third of the lease
	ended                 // the stream is over, for err
)

// event is news of one link.
type event struct {
	link *link
	news news
	err  error
}

// A link is one stream to one manager. Two goroutines serve it: run receives,
// and starts send, the only one that writes to the stream.
type link struct {
	client  *Client
	manager *cav1.Manager
	// certificate is the number of the one there was before the link was dialled.
	certificate uint64
	stop        context.CancelFunc
	done        chan struct{} // closed when run has returned

	wake     chan struct{}         // something new is to be sent
	farewell chan modelv1.Farewell // the last thing to be said
	greeted  chan struct{}         // closed when the manager has said its hello
	paced    chan struct{}         // capacity 1: the time to the next beat begins anew
	pulse    *pulse

	mu      sync.Mutex // guards the fields below; held for memory only
	batches []sentBatch
}

// sentBatch says up to which entry of the outbox a batch of reports went.
type sentBatch struct{ sequence, number uint64 }

func (c *Client) newLink(m *cav1.Manager, stop context.CancelFunc) *link {
	return &link{
		client: c, manager: m, certificate: c.certificate(), stop: stop, done: make(chan struct{}),
		wake: c.outbox.listen(), farewell: make(chan modelv1.Farewell),
		greeted: make(chan struct{}), paced: make(chan struct{}, 1), pulse: newPulse(),
	}
}

// run opens the stream and serves it until it ends; patience bounds the time
// until the manager's hello. It returns why it ended.
func (l *link) run(ctx context.Context, patience time.Duration) error {
	defer close(l.done)
	defer l.client.outbox.forget(l.wake)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	late := time.AfterFunc(patience, func() {
		stop(fmt.Errorf("no answer within %v", patience))
	})
	defer late.Stop()

	conn, err := l.client.cfg.Dial(ctx, l.manager)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, open, err := l.open(ctx, conn)
	if err != nil {
		return cause(ctx, err)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop(nil)
	sending.Go(func() {
		if err := l.send(ctx, stream, open); err != nil {
			stop(fmt.Errorf("send: %w", err))
		}
	})
	return cause(ctx, l.receive(ctx, stream, late))
}

// cause prefers the reason for which ctx was ended to what that broke.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	return err
}

type stream = grpc.BidiStreamingClient[dispatchv1.SessionRequest, dispatchv1.SessionResponse]

// open draws a counter and opens the stream; what it returns is said first.
func (l *link) open(ctx context.Context, conn *grpc.ClientConn) (stream, *dispatchv1.Open, error) {
	w := l.client.cfg.Worker
	session, err := w.NextSession()
	if err != nil {
		return nil, nil, err
	}
	s, err := dispatchv1.NewDispatchClient(conn).Session(ctx)
	if err != nil {
		return nil, nil, err
	}
	history, index := w.Position()
	hello := proto.CloneOf(l.client.cfg.Hello)
	hello.History = history.Bytes()
	return s, &dispatchv1.Open{
		Hello: hello, Session: session, History: history.Bytes(), Index: index,
		ManagersIndex: w.Managers().GetIndex(),
	}, nil
}

// endError says how a manager ended a session.
type endError struct{ end *dispatchv1.End }

func (e endError) Error() string {
	words := e.end.GetWords()
	if words == "" {
		words = e.end.GetReason().String()
	}
	return "the manager ended the session: " + words
}

// receive acts on what the manager says until the stream ends.
func (l *link) receive(ctx context.Context, s stream, late *time.Timer) error {
	greeted, complete := false, false
	for {
		m, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the manager closed the session")
		case err != nil:
			if refused(err) {
				l.client.cfg.OnRevoked(err.Error())
			}
			return err
		}
		if !greeted {
			if err := l.greet(ctx, m.GetWelcome(), m.GetEnd()); err != nil {
				return err
			}
			greeted = true
			late.Stop()
		}
		if a := m.GetAssignments(); a != nil {
			if complete = complete || a.GetComplete(); !complete {
				return errors.New("the manager sent an increment before a complete set")
			}
		}
		if err := l.take(ctx, m); err != nil {
			return err
		}
	}
}

// refused reports whether a manager does not let this node open a session at
// all: its record or its certificate is not good any more.
func refused(err error) bool {
	for _, e := range []error{err, errgrpc.ToNative(err)} {
		if errdefs.IsPermissionDenied(e) || errdefs.IsUnauthorized(e) {
			return true
		}
	}
	return false
}

// greet checks the manager's hello, which comes first unless it is an end.
func (l *link) greet(ctx context.Context, w *dispatchv1.Welcome, end *dispatchv1.End) error {
	if w == nil {
		if end != nil {
			return nil // take says why
		}
		return errors.New("the manager spoke before its welcome")
	}
	if got, want := w.GetHello().GetCluster(), l.client.cfg.Hello.GetCluster(); string(got) != string(want) {
		return fmt.Errorf("it is a manager of another cluster (%x, want %x)", got, want)
	}
	l.pace(w)
	close(l.greeted)
	l.client.tell(ctx, event{link: l, news: welcomed})
	return nil
}

// pace takes the pulse that the manager wants: with its welcome, and again when
// the cluster's settings change.
func (l *link) pace(w *dispatchv1.Welcome) {
	l.pulse.set(time.Duration(w.GetHeartbeatPeriod()), time.Duration(w.GetLease()), time.Now())
	l.anew()
}

// anew has the time to the next beat begin now.
func (l *link) anew() {
	select {
	case l.paced <- struct{}{}:
	default: // it is known already that it does
	}
}

// take acts on one message, unless another stream is in charge.
func (l *link) take(ctx context.Context, m *dispatchv1.SessionResponse) error {
	c := l.client
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.GetWelcome() != nil {
		l.pace(m.GetWelcome())
	}
	if m.GetManagers() != nil {
		if err := c.keepManagers(ctx, m.GetManagers()); err != nil {
			return err
		}
	}
	if a := m.GetAssignments(); a != nil {
		_, lease := l.pulse.times()
		if err := c.cfg.Worker.Obey(ctx, a, lease); err != nil {
			return err
		}
		if err := c.keepManagers(ctx, nil); err != nil {
			return err
		}
	}
	if m.GetBeat() != 0 && l.pulse.confirm(m.GetBeat()) {
		c.tell(ctx, event{link: l, news: confirmed})
		if l.pulse.settled() {
			l.anew()
		}
	}
	if m.GetReports() != 0 {
		l.acknowledge(ctx, m.GetReports())
	}
	if m.GetWish() != nil {
		c.cfg.OnWish(m.GetWish())
	}
	if end := m.GetEnd(); end != nil {
		if end.GetReason() == dispatchv1.End_REASON_REVOKED {
			c.cfg.OnRevoked(end.GetWords())
		}
		return endError{end}
	}
	return nil
}

// acknowledge takes note that all batches up to sequence are committed.
func (l *link) acknowledge(ctx context.Context, sequence uint64) {
	l.mu.Lock()
	n, number := 0, uint64(0)
	for n < len(l.batches) && l.batches[n].sequence <= sequence {
		number = l.batches[n].number
		n++
	}
	l.batches = l.batches[n:]
	l.mu.Unlock()
	if n == 0 {
		return
	}
	for task, status := range l.client.outbox.acknowledged(number) {
		l.client.cfg.Worker.Acknowledge(ctx, task, status)
	}
}

// welcomed reports whether there is a link and its manager has said its hello.
func (l *link) welcomed() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.greeted:
		return true
	default:
		return false
	}
}

// tell gives the client's loop an event, unless the link ends first.
func (c *Client) tell(ctx context.Context, e event) {
	select {
	case c.events <- e:
	case <-ctx.Done():
	}
}

// nodeOf names a manager in a record.
func nodeOf(m *cav1.Manager) string {
	n, err := id.FromBytes(m.GetNode())
	if err != nil || n.IsZero() {
		return m.GetAddress()
	}
	return n.Short()
}
