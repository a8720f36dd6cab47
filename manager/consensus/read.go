package consensus

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/raft/v3"
)

// readTicks is after how many ticks an unanswered read is asked again: 500 ms
// of 50.
const readTicks = 10

// A Read asks for an index at which the answer to a question asked now is
// linearizable.
type Read struct {
	done chan Result // capacity 1, the one end
}

// NewRead returns a read.
func NewRead() *Read { return &Read{done: make(chan Result, 1)} }

// Done gives the index, or why there is none.
func (r *Read) Done() <-chan Result { return r.done }

// reads asks raft for one index at a time, for all who waited when it asked.
type reads struct {
	incarnation uint64
	count       uint64
	waiting     []*Read // not asked yet
	asked       []*Read
	ctx         []byte // of the question that is out; nil: none
	age         int    // its ticks
}

// ReadIndex takes r in. It stays until it is answered or abandoned.
func (c *Core) ReadIndex(r *Read) { c.reads.waiting = append(c.reads.waiting, r) }

// Forget drops a read whose caller has gone.
func (c *Core) Forget(r *Read) {
	for _, list := range []*[]*Read{&c.reads.waiting, &c.reads.asked} {
		for i, o := range *list {
			if o == r {
				*list = append((*list)[:i:i], (*list)[i+1:]...)
				return
			}
		}
	}
}

// startRead asks if somebody waits, nothing is out, and there is someone to ask.
func (c *Core) startRead() {
	r := &c.reads
	if r.ctx != nil || len(r.waiting)+len(r.asked) == 0 || c.lead == raft.None {
		return
	}
	if c.tooNewToRead() {
		return
	}
	r.count++
	r.ctx = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, r.incarnation), r.count)
	r.asked, r.waiting, r.age = append(r.asked, r.waiting...), nil, 0
	c.raw.ReadIndex(r.ctx)
}

// tooNewToRead reports whether this member leads and has no entry of its term
// applied. Raft answers an only voter at once even then: after a restart its
// commit index, which is not synced, can be older than what it acknowledged.
// Found by integration/sim.
func (c *Core) tooNewToRead() bool {
	return c.state == raft.StateLeader && c.appliedTerm != c.term
}

func (r *reads) tick() {
	r.age++
	if r.age >= readTicks {
		r.again()
	}
}

// again makes the question that is out be asked anew, by a new name: the old
// answer would be too old for those who joined since.
func (r *reads) again() { r.ctx = nil }

func (r *reads) confirmed(rs raft.ReadState) {
	if r.ctx == nil || !bytes.Equal(rs.RequestCtx, r.ctx) {
		return
	}
	asked := r.asked
	r.ctx, r.asked = nil, nil
	for _, one := range asked {
		one.done <- Result{Index: rs.Index}
	}
}

func (r *reads) fail(err error) {
	for _, one := range append(r.asked, r.waiting...) {
		one.done <- Result{Err: err}
	}
	r.ctx, r.asked, r.waiting = nil, nil, nil
}
