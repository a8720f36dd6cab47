package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// file keeps the reports of a message for their commit. d.mu is held.
func (d *desk) file(l *line, req *dispatchv1.RelayRequest) {
	if n := len(d.slips); n == 0 || d.slips[n-1].tasks >= maxSlip {
		d.slips = append(d.slips, newSlip(time.Now()))
	}
	s := d.slips[len(d.slips)-1]
	for _, r := range req.GetReports() {
		s.add(r)
	}
	s.acks = append(s.acks, ack{line: l, sequence: req.GetSequence()})
}

// commit writes what has come in, one batch after the other: what arrives while
// one is in flight makes the next.
func (d *desk) commit(ctx context.Context) error {
	for {
		units, taken, due := d.batch(time.Now())
		for _, u := range units { // an entry holds one, and seldom there are more
			if err := d.cfg.Commit(ctx, []*logv1.Unit{u}); err != nil {
				// Not acknowledged: the managers keep the reports and a new leader's
				// desk gets them again (R5).
				return fmt.Errorf("commit what nodes reported: %w", err)
			}
		}
		if taken != nil {
			taken.acknowledge()
		} else if len(units) == 0 {
			if err := d.rest(ctx, due); err != nil {
				return err
			}
		}
	}
}

// rest waits for more, or until what waits is due; zero is never.
func (d *desk) rest(ctx context.Context, due time.Time) error {
	var timer <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.wake:
	case <-timer:
	}
	return nil
}

// batch takes what is to be written at once, as units of operations that never
// conflict, and the slip that was taken for it. Reports go when they are due, or
// along with what else there is. If nothing is taken, due is when something will
// be, and zero if nothing waits.
func (d *desk) batch(now time.Time) (units []*logv1.Unit, taken *slip, due time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ops, snap := d.liveOps(), d.cfg.Store.Snapshot()
	if len(d.slips) > 0 {
		due = d.slips[0].due(d.begun, snap.TasksUnderWay())
		if len(ops) > 0 || len(d.slips) > 1 || !now.Before(due) {
			taken = d.slips[0]
			d.slips = slices.Delete(d.slips, 0, 1)
			ops = append(ops, taken.operations(snap)...)
		}
	}
	if len(ops) == 0 {
		return nil, taken, due
	}
	d.begun = now
	return cut(ops), taken, due
}

// unitBytes is about how much goes into one unit. A unit that no entry can hold would
// end the leader's office, and the next one's, for as long as it is said again.
const unitBytes = 256 << 10

// cut divides operations, which commute, into units of unitBytes or little more.
func cut(ops []*logv1.Operation) (units []*logv1.Unit) {
	size := unitBytes
	for _, op := range ops {
		if size >= unitBytes {
			units, size = append(units, &logv1.Unit{}), 0
		}
		u := units[len(units)-1]
		u.Operations = append(u.Operations, op)
		size += proto.Size(op)
	}
	return units
}

// liveOps takes what the leases say, what nodes say of themselves, and the notes.
// d.mu is held.
func (d *desk) liveOps() []*logv1.Operation {
	var ops []*logv1.Operation
	for _, c := range d.leases.changed() {
		desc := d.describe[c.node]
		delete(d.describe, c.node)
		ops = append(ops, seenOp(c.node, c.status, desc))
	}
	for node, desc := range d.describe { // described anew without a change of state
		if n := d.leases.nodes[node]; n != nil {
			ops = append(ops, seenOp(node, n.status, desc))
		}
		delete(d.describe, node)
	}
	for _, n := range d.notes {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_Note{Note: n}})
	}
	d.notes = nil
	return ops
}

func seenOp(node id.ID, status *modelv1.NodeStatus, desc *modelv1.NodeDescription) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_NodeSeen{NodeSeen: &logv1.NodeSeen{
		Node: node.Bytes(), Status: status, Description: desc,
	}}}
}
