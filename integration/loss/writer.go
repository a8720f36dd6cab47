package loss

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/skep-project/skep/integration/fleet"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// writeTime bounds one try of a write; a daemon without a leader gives up before.
const writeTime = 5 * time.Second

// A writer writes to one daemon back to back, and knows the longest time in
// which no write was acknowledged.
type writer struct {
	acked atomic.Int64
	end   context.CancelFunc
	done  chan time.Duration // capacity 1: the answer, when it has ended
}

func startWriter(ctx context.Context, through *fleet.Member) (*writer, error) {
	cc, err := through.Dial()
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	w := &writer{end: end, done: make(chan time.Duration, 1)}
	client := controlv1.NewControlClient(cc)
	go func() {
		defer cc.Close()
		w.done <- w.write(ctx, client, through.Name())
	}()
	return w, nil
}

func (w *writer) write(ctx context.Context, client controlv1.ControlClient, ref string) (longest time.Duration) {
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		q := &controlv1.UpdateNodeRequest{RequestId: fleet.RequestID(), Ref: ref, LabelsAdd: map[string]string{"beat": strconv.Itoa(n)}}
		for ctx.Err() == nil { // the same request until it is acknowledged
			try, stop := context.WithTimeout(ctx, writeTime)
			_, err := client.UpdateNode(try, q)
			stop()
			if err == nil {
				break
			}
		}
		if ctx.Err() == nil {
			longest, last = max(longest, time.Since(last)), time.Now()
			w.acked.Add(1)
		}
	}
	return longest
}

// after waits for so many more acknowledged writes.
func (w *writer) after(ctx context.Context, more int64) error {
	want := w.acked.Load() + more
	return fleet.Until(ctx, time.Minute, func(context.Context) error {
		if have := w.acked.Load(); have < want {
			return fmt.Errorf("%d of %d writes are acknowledged", have, want)
		}
		return nil
	})
}

// stop ends the writer and returns the longest gap.
func (w *writer) stop() time.Duration {
	w.end()
	return <-w.done
}
