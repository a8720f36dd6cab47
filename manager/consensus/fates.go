package consensus

import (
	"bytes"
	"sync"
)

// A Result is the end of a proposal.
type Result struct {
	// Index is the entry that holds it, if Err says it was applied or conflicted.
	Index uint64
	// Err is nil, the Machine's own error, or one of this package's.
	Err error
}

// A Proposal is a transaction on its way.
type Proposal struct {
	tx   []byte
	done chan Result // capacity 1: the one end of the proposal, so sending never blocks
}

// NewProposal returns tx as a proposal.
func NewProposal(tx []byte) *Proposal {
	return &Proposal{tx: tx, done: make(chan Result, 1)}
}

// Done gives the one end of the proposal.
func (p *Proposal) Done() <-chan Result { return p.done }

func (p *Proposal) end(r Result) { p.done <- r }

// Fates knows the proposals that stand in the log of this member and have no
// end yet. The core adds to it, the applier ends them: an entry found applied
// under its (term, sequence) brings the Machine's answer, an applied entry of a
// later term refuses all of an earlier one, since terms in a log never fall.
type Fates struct {
	mu      sync.Mutex // guards pending
	pending []inFlight // in the order of (term, sequence)
}

// inFlight is one entry that this member proposed.
type inFlight struct {
	term, sequence uint64
	nonce          []byte // of a ConfChange; nil otherwise
	proposals      []*Proposal
}

func (f *Fates) add(e inFlight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, e)
}

// drop takes back the newest entry, which did not get into the log.
func (f *Fates) drop(nonce []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.pending) - 1; i >= 0; i-- {
		if e := f.pending[i]; e.nonce != nil && bytes.Equal(e.nonce, nonce) {
			f.pending = append(f.pending[:i:i], f.pending[i+1:]...)
			e.end(Result{Err: err}, nil)
			return
		}
	}
}

// applied ends the entry (term, sequence) if it is this member's own, and
// refuses those of earlier terms.
func (f *Fates) applied(term, sequence uint64, nonce []byte, index uint64, errs []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass(term)
	if len(f.pending) == 0 {
		return
	}
	if e := f.pending[0]; e.term == term && e.sequence == sequence && bytes.Equal(e.nonce, nonce) {
		f.pop()
		e.end(Result{Index: index}, errs)
	}
}

// passed refuses what was proposed in a term before term.
func (f *Fates) passed(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass(term)
}

func (f *Fates) pass(term uint64) {
	for len(f.pending) > 0 && f.pending[0].term < term {
		f.pop().end(Result{Err: ErrRefused}, nil)
	}
}

// skipped ends as unknown what an installed snapshot may hold: all of a term
// before the snapshot's own, and of the term of its last header what that covers.
func (f *Fates) skipped(snapshotTerm, lastTerm, lastSequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.pending) > 0 {
		e := f.pending[0]
		if e.term >= snapshotTerm && (e.term != lastTerm || e.sequence > lastSequence) {
			return
		}
		f.pop().end(Result{Err: ErrUnknown}, nil)
	}
}

// lose ends everything with err.
func (f *Fates) lose(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.pending) > 0 {
		f.pop().end(Result{Err: err}, nil)
	}
}

func (f *Fates) pop() inFlight {
	e := f.pending[0]
	f.pending[0] = inFlight{}
	f.pending = f.pending[1:]
	return e
}

// end ends each proposal of the entry, with its own error if there is one.
func (e inFlight) end(r Result, errs []error) {
	for i, p := range e.proposals {
		one := r
		if i < len(errs) && errs[i] != nil {
			one.Err = errs[i]
		}
		p.end(one)
	}
}
