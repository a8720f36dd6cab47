package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What one proposal holds at most (R11), and how many are in flight at once.
const (
	maxProposalBytes      = 1 << 20
	maxProposalOperations = 5_000
	maxProposalsInFlight  = 8
)

// A Parcel is what goes into one proposal together: a unit, or the moves of a
// service, each of which is a unit by itself. It is one of the two.
type Parcel struct {
	Unit  *logv1.Unit
	Moves *logv1.Moves
}

// Units returns how many units p is.
func (p Parcel) Units() int {
	if p.Moves != nil {
		return len(p.Moves.GetMoves())
	}
	return 1
}

// operations returns how many operations p is at the least.
func (p Parcel) operations() int {
	if p.Moves != nil {
		return len(p.Moves.GetMoves())
	}
	return len(p.Unit.GetOperations())
}

// size returns how many bytes p takes in a transaction.
func (p Parcel) size() int {
	if p.Moves != nil {
		return protowire.SizeBytes(proto.Size(p.Moves)) + protowire.SizeTag(3)
	}
	return protowire.SizeBytes(proto.Size(p.Unit)) + protowire.SizeTag(2)
}

// Units proposes independent units: each is applied or dropped by itself, and
// the answer says by the parcel's number, ascending, from which one was dropped; a
// number comes once for each. Parcels are never cut, and put together into
// proposals of at most 1 MiB and 5,000 operations, of which 8 are in flight at once,
// so the order in which they are applied is not theirs to rely on.
//
// With an error some proposals may have been applied: the caller re-plans from
// the next snapshot.
func (db *DB) Units(ctx context.Context, parcels []Parcel) ([]int, error) {
	proposals := pack(parcels)
	results := make([][]int, len(proposals))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxProposalsInFlight)
	for i, p := range proposals {
		g.Go(func() error {
			numbers, err := db.propose(gctx, p)
			results[i] = numbers
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	dropped := slices.Concat(results...)
	slices.Sort(dropped)
	return dropped, nil
}

// proposal is a transaction that fits one entry.
type proposal struct {
	tx logv1.Transaction
	// units and moves are the numbers of the parcels in it, the latter one for each
	// move: what is counted as a unit.
	units, moves []int
}

// pack divides parcels into proposals. One that alone is too big is alone.
func pack(parcels []Parcel) []*proposal {
	var out []*proposal
	size, ops := 0, 0
	for i, p := range parcels {
		n := p.size()
		if i == 0 || size+n > maxProposalBytes || ops+p.operations() > maxProposalOperations {
			out = append(out, &proposal{})
			size, ops = 0, 0
		}
		out[len(out)-1].add(i, p)
		size, ops = size+n, ops+p.operations()
	}
	return out
}

func (p *proposal) add(number int, parcel Parcel) {
	if parcel.Moves == nil {
		p.tx.Units = append(p.tx.Units, parcel.Unit)
		p.units = append(p.units, number)
		return
	}
	p.tx.Moves = append(p.tx.Moves, parcel.Moves)
	for range parcel.Moves.GetMoves() {
		p.moves = append(p.moves, number)
	}
}

// propose proposes p and returns the numbers of the parcels of which a unit was
// dropped.
func (db *DB) propose(ctx context.Context, p *proposal) ([]int, error) {
	data, err := proto.Marshal(&p.tx)
	if err != nil {
		return nil, fmt.Errorf("encode transaction: %w", err)
	}
	index, err := db.proposer.Propose(ctx, data)
	numbers := slices.Concat(p.units, p.moves)
	var partial *Partial
	var conflict *Conflict
	switch {
	case err == nil:
		return nil, db.store.WaitIndex(ctx, index)
	case errors.As(err, &partial):
		dropped := make([]int, len(partial.Units))
		for i, unit := range partial.Units {
			dropped[i] = numbers[unit]
		}
		return dropped, nil
	case errors.As(err, &conflict):
		return numbers[:1], nil
	}
	return nil, err
}
