package session

import (
	"encoding/binary"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// encoder is a stream that encodes what is sent, as gRPC does, and forgets it.
type encoder struct {
	grpc.BidiStreamingClient[dispatchv1.SessionRequest, dispatchv1.SessionResponse]
	bytes int
}

func (e *encoder) Send(m *dispatchv1.SessionRequest) error {
	data, err := proto.Marshal(m)
	e.bytes = len(data)
	return err
}

// BenchmarkSend is a hundred tasks' states from the agent's word until they are
// acknowledged: the way of each through the outbox and into one message.
func BenchmarkSend(b *testing.B) {
	const tasks = 100
	l := &link{client: &Client{outbox: newOutbox()}}
	s := &encoder{}
	w := writer{link: l, stream: s}
	status := &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_RUNNING, AgentAt: 1_700_000_000_000_000_000}
	var ids [tasks]id.ID
	for i := range ids {
		binary.BigEndian.PutUint64(ids[i][8:], uint64(i+1))
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, task := range ids {
			l.client.outbox.put(task, status)
		}
		if err := w.write(&dispatchv1.SessionRequest{}); err != nil {
			b.Fatal(err)
		}
		if n := len(l.client.outbox.acknowledged(w.cursor)); n != tasks {
			b.Fatalf("%d states were acknowledged, want %d", n, tasks)
		}
		l.batches = l.batches[:0] // as the acknowledgement does
	}
	b.ReportMetric(float64(s.bytes)/tasks, "B-sent/task")
}
