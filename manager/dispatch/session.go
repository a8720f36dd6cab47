package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// catchUp is how long a session waits for this replica to hold what its agent
// has obeyed already (R1).
const catchUp = 2 * time.Second

// A session is one node's open stream to this manager.
type session struct {
	node    id.ID
	boot    []byte
	address string
	// shown is the generation of the certificate in the handshake.
	shown uint64

	// Owned by sessions, under its mutex.
	counter     uint64
	former      *session // that this one replaces once it is counted; nil if there is none
	beat        uint64
	beatAt      time.Time
	ahead       time.Duration // the node's clock, of the one here; at the beat
	description *modelv1.NodeDescription
	described   bool // the present desk has the description
	farewell    modelv1.Farewell

	// slots bounds the batches that wait for their commit: one value each.
	slots chan struct{}

	mu        sync.Mutex // guards the fields below
	confirmed uint64     // beat
	committed uint64     // report sequence
	thanked   uint64     // committed as the agent was told
	thanking  bool       // the agent is to be told of committed though there is nothing else to say
	ended     *dispatchv1.End

	wake chan struct{} // capacity 1: there is something to tell the agent
}

// tell is liveness for the desk, with the description if it has not got it.
func (x *session) tell(now time.Time) *dispatchv1.Liveness {
	v := x.liveness(now)
	if x.described {
		v.Description = nil
	}
	x.described = true
	return v
}

func (x *session) liveness(now time.Time) *dispatchv1.Liveness {
	return &dispatchv1.Liveness{
		Node: x.node.Bytes(), Boot: x.boot, Session: x.counter, Beat: x.beat,
		Age: int64(now.Sub(x.beatAt)), Farewell: x.farewell,
		Description: x.description, ObservedAddress: x.address, Shown: x.shown, ClockAhead: int64(x.ahead),
	}
}

// aheadOf is how far a node's clock, as it told, is ahead of the one here; 0 if it
// does not tell.
func aheadOf(clock int64, now time.Time) time.Duration {
	if clock == 0 {
		return 0
	}
	return time.Unix(0, clock).Sub(now)
}

// confirm notes a counted beat, and has the agent told.
func (x *session) confirm(beat uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.confirmed = max(x.confirmed, beat)
	signal(x.wake)
}

// commit notes a committed report. The agent is told with what is said next, or by thank.
func (x *session) commit(sequence uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.committed = max(x.committed, sequence)
}

// thank has the agent told of committed reports, if it was not.
func (x *session) thank() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.committed > x.thanked {
		x.thanking = true
		signal(x.wake)
	}
}

// end tells the agent to go elsewhere; the first reason stands.
func (x *session) end(why dispatchv1.End_Reason, words string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended == nil {
		x.ended = &dispatchv1.End{Reason: why, Words: words}
	}
	signal(x.wake)
}

// Session serves one node until its stream ends.
func (s *Server) Session(stream dispatchv1.Dispatch_SessionServer) error {
	ctx := stream.Context()
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return rpc.Errorf(errdefs.ErrPermissionDenied, "open session: caller is not a node")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := tame(first); err != nil {
		return fmt.Errorf("open session of node %s: %w", caller.Node, err)
	}
	open := first.GetOpen()
	if open == nil {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "open session of node %s: the first message does not open it", caller.Node)
	}
	if !s.cfg.Raft.InContact() {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "open session of node %s: this manager is out of contact with the quorum", caller.Node), "the agent tries the other managers by itself")
	}
	if end := s.catchUp(ctx, open); end != nil {
		return stream.Send(&dispatchv1.SessionResponse{End: end})
	}
	if s.cfg.Store.Snapshot().Cluster().GetFips() && !open.GetHello().GetFips() {
		return rpc.RefuseFIPS(fmt.Sprintf("open session of node %s", caller.Node))
	}
	if end := s.twin(caller.Node, open); end != nil {
		return stream.Send(&dispatchv1.SessionResponse{End: end})
	}
	x := &session{
		node: caller.Node, boot: open.GetHello().GetBoot(), counter: open.GetSession(), address: caller.Address, shown: caller.Identity.Generation,
		beat: first.GetBeat(), beatAt: time.Now(), description: first.GetDescription(),
		slots: make(chan struct{}, maxHeld), wake: make(chan struct{}, 1),
	}
	x.ahead = aheadOf(first.GetClock(), x.beatAt)
	if why := s.sessions.begin(x); why != "" {
		return stream.Send(&dispatchv1.SessionResponse{End: &dispatchv1.End{Reason: dispatchv1.End_REASON_REPLACED, Words: why}})
	}
	defer func() { s.sessions.finish(x, time.Now()) }()
	if first.GetReports() != nil {
		x.slots <- struct{}{}
		s.sessions.report(x, first.GetReports())
	}
	return s.serve(ctx, stream, x, open)
}

// catchUp waits until this replica holds what the agent has obeyed and what was
// committed before now; an answer says why it does not.
func (s *Server) catchUp(ctx context.Context, open *dispatchv1.Open) *dispatchv1.End {
	ctx, stop := context.WithTimeout(ctx, catchUp)
	defer stop()
	if err := s.cfg.Raft.Barrier(ctx); err != nil {
		return &dispatchv1.End{Reason: dispatchv1.End_REASON_BEHIND, Words: fmt.Sprintf("this manager cannot confirm what is newest: %v", err)}
	}
	snap := s.cfg.Store.Snapshot()
	if string(open.GetHistory()) == string(snap.Cluster().GetHistory()) && snap.Index() < open.GetIndex() {
		return &dispatchv1.End{Reason: dispatchv1.End_REASON_BEHIND,
			Words: fmt.Sprintf("this manager is at index %d, the node has obeyed %d", snap.Index(), open.GetIndex())}
	}
	return nil
}

// twin refuses a machine that takes turns with another as one node, as long as the
// other is heard: they would replace each other's sessions without a pause.
func (s *Server) twin(node id.ID, open *dispatchv1.Open) *dispatchv1.End {
	status := s.cfg.Store.Snapshot().Node(node).GetStatus()
	if len(status.GetTwinBoot()) == 0 || status.GetState() != modelv1.NodeState_NODE_STATE_READY ||
		bytes.Equal(status.GetBoot(), open.GetHello().GetBoot()) {
		return nil
	}
	return &dispatchv1.End{Reason: dispatchv1.End_REASON_REPLACED, Words: status.GetMessage()}
}

// errEnded says that the session was told to end.
var errEnded = errors.New("session ended")

// serve runs both directions until one of them ends. The reader ends with the
// stream: gRPC cancels the stream's context when Session returns, so it is not
// waited for here but by the server's stop.
func (s *Server) serve(ctx context.Context, stream dispatchv1.Dispatch_SessionServer, x *session, open *dispatchv1.Open) error {
	reader := make(chan error, 1)
	go func() { reader <- s.listen(ctx, stream, x) }()
	err := s.speak(ctx, stream, x, open, reader)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// listen takes in what the agent says.
func (s *Server) listen(ctx context.Context, stream dispatchv1.Dispatch_SessionServer, x *session) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := tame(req); err != nil {
			return fmt.Errorf("session of node %s: %w", x.node, err)
		}
		if req.GetBeat() > 0 {
			s.sessions.beat(x, req, s.pace(), time.Now())
		}
		if req.GetDescription() != nil {
			s.sessions.describe(x, req.GetDescription())
		}
		if req.GetFarewell() != modelv1.Farewell_FAREWELL_UNSPECIFIED {
			s.sessions.farewell(x, req.GetFarewell())
		}
		if req.GetReports() != nil {
			select {
			case x.slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			s.sessions.report(x, req.GetReports())
		}
	}
}

// speak tells the agent its work and what has been counted, until the reader's end.
func (s *Server) speak(ctx context.Context, stream dispatchv1.Dispatch_SessionServer, x *session, open *dispatchv1.Open, reader <-chan error) error {
	w := s.cfg.Store.Watch(store.KeyWorkOfNode(x.node),
		store.Key{Kind: logv1.Kind_KIND_NODE, ID: x.node}, store.Key{Kind: logv1.Kind_KIND_CLUSTER}, store.Key{Kind: logv1.Kind_KIND_MEMBER})
	defer w.Close()
	v := &voice{
		session: x, work: newWork(x.node), greet: s.greet, crowded: s.sessions.crowded.Load, heldManagers: open.GetManagersIndex(),
		heldHistory: open.GetHistory(),
	}
	list, listed := s.managers.get()
	resp := v.compose(s.cfg.Store.Snapshot(), list, nil, true)
	for {
		if resp != nil {
			if err := stream.Send(resp); err != nil {
				return err
			}
			if resp.GetEnd() != nil {
				return errEnded
			}
			if resp.GetBeat() != 0 {
				s.sessions.counts(x)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-reader:
			return err
		case <-x.wake:
		case <-w.C():
		case <-listed:
		}
		list, listed = s.managers.get()
		changes, reset := w.Take()
		resp = v.compose(s.cfg.Store.Snapshot(), list, changes, reset)
	}
}

// greet is how a session is welcomed, but for the pulse that it is to have.
func (s *Server) greet() *dispatchv1.Welcome {
	leads, _, _ := s.cfg.Raft.Leader()
	return &dispatchv1.Welcome{Hello: s.cfg.Hello(), Leader: leads}
}

// pace is how long a beat waits for others.
func (s *Server) pace() time.Duration {
	return paceOf(orDefault(s.cfg.Store.Snapshot().Cluster().GetSpec().GetHeartbeatPeriod(), defaultHeartbeat))
}
