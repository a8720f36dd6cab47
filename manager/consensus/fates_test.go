package consensus

import (
	"errors"
	"testing"
)

// end returns what became of p: nil error and index, or "" while it waits.
func fate(p *Proposal) (Result, bool) {
	select {
	case r := <-p.Done():
		return r, true
	default:
		return Result{}, false
	}
}

func TestFatesOfADeposedLeadersEntries(t *testing.T) {
	t.Parallel()
	var f Fates
	p := make([]*Proposal, 6)
	for i := range p {
		p[i] = NewProposal(nil)
	}
	f.add(inFlight{term: 3, sequence: 1, proposals: p[:2]})
	f.add(inFlight{term: 3, sequence: 2, proposals: p[2:3]})
	f.add(inFlight{term: 3, sequence: 3, proposals: p[3:4]})
	f.add(inFlight{term: 5, sequence: 1, proposals: p[4:5]})
	f.add(inFlight{term: 5, sequence: 2, proposals: p[5:6]})

	// Its first entry is committed by the next leader, one of two transactions conflicts.
	f.applied(3, 1, nil, 10, []error{nil, errNo})
	if r, ok := fate(p[0]); !ok || r.Err != nil || r.Index != 10 {
		t.Errorf("applied: %v %v", r, ok)
	}
	if r, ok := fate(p[1]); !ok || !errors.Is(r.Err, errNo) {
		t.Errorf("conflicted: %v %v", r, ok)
	}
	if _, ok := fate(p[2]); ok {
		t.Error("an entry without an end yet was ended")
	}
	// An entry of another term in between: what is left of term 3 is refused.
	f.passed(4)
	for i := 2; i < 4; i++ {
		if r, ok := fate(p[i]); !ok || !errors.Is(r.Err, ErrRefused) {
			t.Errorf("proposal %d: %v %v, want ErrRefused", i, r, ok)
		}
	}
	// A snapshot holds (5, 1) and perhaps what it did; (5, 2) still waits.
	f.skipped(5, 5, 1)
	if r, ok := fate(p[4]); !ok || !errors.Is(r.Err, ErrUnknown) {
		t.Errorf("behind a snapshot: %v %v, want ErrUnknown", r, ok)
	}
	if _, ok := fate(p[5]); ok {
		t.Error("an entry after the snapshot was ended")
	}
	// A later snapshot of a later term may hold it.
	f.skipped(7, 6, 4)
	if r, ok := fate(p[5]); !ok || !errors.Is(r.Err, ErrUnknown) {
		t.Errorf("behind a later snapshot: %v %v, want ErrUnknown", r, ok)
	}
}

func TestWhatIsAbandonedInALogIsUnknownAndNotRefused(t *testing.T) {
	t.Parallel()
	var f Fates
	waiting, flying := NewProposal(nil), NewProposal(nil)
	f.add(inFlight{term: 1, sequence: 1, proposals: []*Proposal{flying}})
	c := &Core{cfg: CoreConfig{Fates: &f}}
	c.Propose(waiting)
	c.Abandon(ErrRefused)
	if r, _ := fate(waiting); !errors.Is(r.Err, ErrRefused) {
		t.Errorf("not in the log: %v, want ErrRefused", r.Err)
	}
	if r, _ := fate(flying); !errors.Is(r.Err, ErrUnknown) || errors.Is(r.Err, ErrRefused) {
		t.Errorf("in the log: %v, want ErrUnknown alone", r.Err)
	}
}
