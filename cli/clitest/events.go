package clitest

import (
	"google.golang.org/grpc"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// WatchEvents implements the Control service: it tells what Told holds behind the
// index asked for, and ends. A failure planned for it comes after the fact, before
// the last message.
func (s *Swarm) WatchEvents(q *controlv1.WatchEventsRequest, stream grpc.ServerStreamingServer[controlv1.WatchEventsResponse]) error {
	s.mu.Lock()
	var tell []*controlv1.WatchEventsResponse
	for _, m := range s.Told {
		if m.GetIndex() > q.GetAfter() {
			tell = append(tell, m)
		}
	}
	s.Asked = append(s.Asked, q)
	err := s.fail("WatchEvents")
	s.mu.Unlock()
	if err != nil && len(tell) > 0 {
		tell = tell[:len(tell)-1]
	}
	for _, m := range tell {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return err
}
