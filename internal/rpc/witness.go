package rpc

import (
	"sync"

	"google.golang.org/grpc/codes"
)

// A Witness is told what was refused, and what was shown that is to be known: what
// leaves no trace in the state. It must be quick, and wait for nothing.
type Witness interface {
	// Saw is told of a call. code is why it was refused, as gRPC calls it; empty if
	// it was done. reason is in words, and empty where they might quote what the
	// caller sent.
	Saw(c Caller, code, reason string)
}

// maxUnseen bounds what is kept for a witness to come.
const maxUnseen = 32

// watched is who is told, and what was seen before there was anyone. The zero
// value tells nobody yet.
type watched struct {
	mu      sync.Mutex // guards the fields below; held for memory and Saw
	witness Witness
	unseen  []sighting
}

type sighting struct {
	caller       Caller
	code, reason string
}

// SetWitness makes w be told from now on, and of the first things that were seen
// while there was none: a manager is unlocked before it runs. Nil ends that.
func (s *Server) SetWitness(w Witness) {
	s.watched.mu.Lock()
	defer s.watched.mu.Unlock()
	s.watched.witness = w
	if w == nil {
		return
	}
	for _, v := range s.watched.unseen {
		w.Saw(v.caller, v.code, v.reason)
	}
	s.watched.unseen = nil
}

// Saw tells the witness of what did not come as a call.
func (s *Server) Saw(c Caller, code, reason string) {
	s.watched.mu.Lock()
	defer s.watched.mu.Unlock()
	switch {
	case s.watched.witness != nil:
		s.watched.witness.Saw(c, code, reason)
	case len(s.watched.unseen) < maxUnseen:
		s.watched.unseen = append(s.watched.unseen, sighting{c, code, reason})
	}
}

// stopped tells the witness of a caller who was not let in.
func (s *Server) stopped(c *call, err error) {
	c.caller.Method = c.method.name
	if code := codeOf(err); code == codes.PermissionDenied || code == codes.Unauthenticated {
		s.Saw(c.caller, code.String(), err.Error())
	}
}

// shown tells the witness of a call that shows what is to be known.
func (s *Server) shown(c *call) {
	if c.method.policy.GetShows() {
		s.Saw(c.caller, "", "")
	}
}

// ended tells the witness of a call that was let in and refused what was asked
// for. What was changed is in the state with who asked for it.
func (s *Server) ended(c *call, err error) {
	if err == nil {
		return
	}
	code := codeOf(err)
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated:
		s.Saw(c.caller, code.String(), err.Error())
	case codes.FailedPrecondition, codes.ResourceExhausted:
		if c.method.policy.GetLeader() || c.method.policy.GetShows() {
			s.Saw(c.caller, code.String(), err.Error())
		}
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.OutOfRange:
		if c.method.policy.GetLeader() || c.method.policy.GetShows() {
			s.Saw(c.caller, code.String(), "") // the words quote the request
		}
	}
}
