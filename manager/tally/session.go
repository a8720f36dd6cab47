package tally

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/skep-project/skep/internal/meter"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// gauge is a number that rises and falls.
type gauge struct{ n atomic.Int64 }

func (g *gauge) set(n int)    { g.n.Store(int64(n)) }
func (g *gauge) value() int64 { return g.n.Load() }

// sessions is what is counted of nodes' sessions.
type sessions struct {
	open        gauge
	beats       meter.Counter
	reports     meter.Counter
	messages    meter.Counter
	assignments meter.Counter
	confirmed   meter.Durations // from a beat's arrival to the word that the leader counted it
}

// Dispatch is next, counted.
func (t *Tally) Dispatch(next dispatchv1.DispatchServer) dispatchv1.DispatchServer {
	return dispatch{DispatchServer: next, tally: t}
}

type dispatch struct {
	dispatchv1.DispatchServer
	tally *Tally
}

// Session passes a session on.
func (d dispatch) Session(stream dispatchv1.Dispatch_SessionServer) error {
	s := &d.tally.sessions
	s.open.n.Add(1)
	defer s.open.n.Add(-1)
	return d.DispatchServer.Session(&session{Dispatch_SessionServer: stream, count: s})
}

// session counts what goes over one node's stream.
type session struct {
	dispatchv1.Dispatch_SessionServer
	count *sessions

	mu     sync.Mutex // guards the fields below
	beat   uint64     // the newest that came and is not confirmed; 0 is none
	beatAt time.Time
}

// Recv returns what the node says next.
func (s *session) Recv() (*dispatchv1.SessionRequest, error) {
	req, err := s.Dispatch_SessionServer.Recv()
	if err != nil {
		return req, err
	}
	if req.GetBeat() > 0 {
		s.count.beats.Inc()
		s.mu.Lock()
		if s.beat == 0 {
			s.beat, s.beatAt = req.GetBeat(), time.Now()
		}
		s.mu.Unlock()
	}
	s.count.reports.Add(len(req.GetReports().GetReports()))
	return req, nil
}

// Send tells the node resp.
func (s *session) Send(resp *dispatchv1.SessionResponse) error {
	if err := s.Dispatch_SessionServer.Send(resp); err != nil {
		return err
	}
	s.count.messages.Inc()
	s.count.assignments.Add(len(resp.GetAssignments().GetPut()) + len(resp.GetAssignments().GetDrop()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beat > 0 && resp.GetBeat() >= s.beat {
		s.count.confirmed.Since(s.beatAt)
		s.beat = 0
	}
	return nil
}
