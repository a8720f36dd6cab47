package consensus

import (
	"errors"
	"fmt"

	"github.com/skep-project/skep/internal/invariant"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3"
)

// queue holds the transactions that wait to be merged into an entry, and the
// sealer of this member's term as leader.
type queue struct {
	waiting  []*Proposal
	bytes    int
	sealer   *sealed.TermSealer
	sealed   uint64 // term of sealer
	sequence uint64 // of the last entry proposed in that term
}

// newTerm forgets the sealer: the next entry begins a term.
func (q *queue) newTerm() { q.sealer, q.sequence = nil, 0 }

// Propose takes p in. Its end comes through Fates, or at once if this member
// does not lead.
func (c *Core) Propose(p *Proposal) {
	if len(p.tx) > EntryBytes {
		p.end(Result{Err: fmt.Errorf("%d bytes, an entry holds %d: %w", len(p.tx), EntryBytes, ErrTooLarge)})
		return
	}
	c.queue.waiting = append(c.queue.waiting, p)
	c.queue.bytes += len(p.tx)
}

// Full reports whether no more proposals should be given to the core.
func (c *Core) Full() bool {
	return len(c.queue.waiting) >= waitingCount || c.queue.bytes >= waitingBytes
}

// Abandon ends everything that waits with err, and what may stand in a log as
// unknown.
func (c *Core) Abandon(err error) {
	c.refuse(err)
	c.reads.fail(err)
	// Not wrapped: err may say that it is safe to try again, and here it is not.
	c.cfg.Fates.lose(fmt.Errorf("%v: %w", err, ErrUnknown)) //nolint:errorlint // see above
}

func (c *Core) refuse(err error) {
	for _, p := range c.queue.waiting {
		p.end(Result{Err: err})
	}
	c.queue.waiting, c.queue.bytes = nil, 0
}

// propose merges what waits into entries: at once while nothing is being
// written, else when the write is done, so that one write carries all that came
// during the last. Large piles go out up to four deep.
func (c *Core) propose(clock int64) {
	if len(c.queue.waiting) == 0 {
		return
	}
	if c.state != raft.StateLeader {
		c.refuse(ErrNotLeader{Leader: c.lead})
		return
	}
	if c.cfg.Blind {
		c.refuse(ErrNotLeader{})
		return
	}
	if c.appliedTerm != c.term {
		return // it may be in the log which key is to be used (R20): what waits goes on waiting
	}
	for len(c.queue.waiting) > 0 && c.mayAppend() {
		if !c.proposeOne(clock) {
			return
		}
		c.collect()
	}
}

// mayAppend reports whether another entry should be written now.
func (c *Core) mayAppend() bool {
	writing := 0
	for _, a := range c.appends {
		if len(a.Entries) > 0 {
			writing++
		}
	}
	return writing == 0 || writing < 4 && c.queue.bytes >= EntryBytes/4
}

// proposeOne proposes one entry of what waits. It reports whether raft took it.
func (c *Core) proposeOne(clock int64) bool {
	batch, size := c.queue.batch()
	data, err := c.seal(&logv1.Entry{Sequence: c.queue.sequence + 1, Clock: clock, Transactions: txs(batch)})
	if err != nil {
		c.refuse(fmt.Errorf("%w: %w", err, ErrRefused))
		return false
	}
	if err := c.raw.Propose(data); err != nil {
		invariant.Check(errors.Is(err, raft.ErrProposalDropped), "raft refuses a leader's proposal for want of room or a hand-over only: %v", err)
		return false // leadership is being handed over, or too much is not committed: it waits
	}
	c.queue.sequence++
	c.queue.waiting, c.queue.bytes = c.queue.waiting[len(batch):], c.queue.bytes-size
	c.cfg.Fates.add(inFlight{term: c.term, sequence: c.queue.sequence, proposals: batch})
	return true
}

// batch returns the oldest proposals that fit in one entry, at least one.
func (q *queue) batch() ([]*Proposal, int) {
	n, size := 0, 0
	for n < len(q.waiting) && (n == 0 || size+len(q.waiting[n].tx) <= EntryBytes) {
		size += len(q.waiting[n].tx)
		n++
	}
	return q.waiting[:n:n], size
}

func txs(batch []*Proposal) [][]byte {
	out := make([][]byte, len(batch))
	for i, p := range batch {
		out[i] = p.tx
	}
	return out
}

// seal seals e for this term, under a fresh key when the term or the ring's
// active key is new.
func (c *Core) seal(e *logv1.Entry) ([]byte, error) {
	q := &c.queue
	if q.sealer == nil || q.sealed != c.term || q.sealer.Key() != c.cfg.Ring.Active() {
		s, err := sealed.NewTermSealer(c.cfg.Ring, c.cfg.Cluster, c.cfg.History, c.term, c.cfg.RaftID, c.cfg.Salt)
		if err != nil {
			return nil, err
		}
		q.sealer, q.sealed = s, c.term
	}
	return q.sealer.Seal(e)
}
