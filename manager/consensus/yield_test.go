package consensus

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// street is a transport between the members of one process: whoever runs on it
// hears what is sent to it.
type street struct {
	mu     sync.Mutex // guards the field below
	houses map[uint64]*Runner
}

// door is one member's end of a street.
type door struct {
	street *street
	wg     sync.WaitGroup
	id     uint64
}

func (d *door) Run(ctx context.Context, h Handler) error {
	d.street.mu.Lock()
	d.street.houses[d.id] = h.(*Runner)
	d.street.mu.Unlock()
	<-ctx.Done()
	d.street.mu.Lock()
	delete(d.street.houses, d.id)
	d.street.mu.Unlock()
	d.wg.Wait()
	return nil
}

func (d *door) Send(msgs []*raftpb.Message) {
	d.street.mu.Lock()
	defer d.street.mu.Unlock()
	from := d.street.houses[d.id]
	for _, m := range msgs {
		to := d.street.houses[m.GetTo()]
		if to == nil || from == nil {
			continue
		}
		if m.GetType() != raftpb.MsgSnap {
			_ = to.Step(context.Background(), m) // lost, as on any network
			continue
		}
		d.wg.Go(func() {
			file, err := from.OpenSnapshot(m)
			if err == nil {
				err = errors.Join(to.ReceiveSnapshot(context.Background(), m, file), file.Close())
			}
			from.ReportSnapshot(m.GetTo(), err == nil)
		})
	}
}

func (*door) SetPeer(uint64, string) {}
func (*door) RemovePeer(uint64)      {}

func TestALeaderWithoutSpaceHandsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &street{houses: map[uint64]*Runner{}}
		first := testConfig(t, &ledger{})
		second := testConfig(t, &ledger{})
		second.Cluster, second.History, second.Ring = first.Cluster, first.History, first.Ring
		first.Transport, second.Transport = &door{street: s, id: first.RaftID}, &door{street: s, id: second.RaftID}
		if err := errors.Join(Bootstrap(first, nil), JoinDir(second)); err != nil {
			t.Fatal(err)
		}
		first, d := faulty(first, nil)
		a, b := mustOpen(t, first), mustOpen(t, second)
		stopA, stopB := running(t, a), running(t, b)
		untilLeader(t, a)
		add := Change{Kind: AddLearner, RaftID: second.RaftID, Address: "b"}
		if err := a.ChangeMembership(t.Context(), add, []byte("add")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // it must be heard for two seconds first
		if err := a.ChangeMembership(t.Context(), Change{Kind: Promote, RaftID: second.RaftID}, []byte("promote")); err != nil {
			t.Fatal(err)
		}

		d.free.Store(freeBytes - 1)
		untilLeader(t, b)
		if _, err := b.Propose(t.Context(), []byte("x")); err != nil {
			t.Errorf("a write while another manager's disk is full: %v", err)
		}
		if err := errors.Join(stopB(), stopA()); err != nil {
			t.Error(err)
		}
	})
}
