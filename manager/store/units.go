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

// Units proposes independent units: each is applied or dropped by itself, and
// the answer says by number, ascending, which were dropped. They are cut at unit boundaries
// into proposals of at most 1 MiB and 5,000 operations, of which 8 are in flight
// at once, so the order in which they are applied is not theirs to rely on.
//
// With an error some proposals may have been applied: the caller re-plans from
// the next snapshot.
func (db *DB) Units(ctx context.Context, units []*logv1.Unit) ([]int, error) {
	proposals := cut(units)
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
	return slices.Concat(results...), nil
}

// proposal is a run of units that fits one entry.
type proposal struct {
	first int // number of its first unit
	units []*logv1.Unit
}

// cut divides units into proposals. A unit that alone is too big is alone.
func cut(units []*logv1.Unit) []proposal {
	var out []proposal
	size, ops := 0, 0
	for i, u := range units {
		n := protowire.SizeBytes(proto.Size(u)) + protowire.SizeTag(2)
		if i == 0 || size+n > maxProposalBytes || ops+len(u.GetOperations()) > maxProposalOperations {
			out = append(out, proposal{first: i})
			size, ops = 0, 0
		}
		last := &out[len(out)-1]
		last.units = append(last.units, u)
		size, ops = size+n, ops+len(u.GetOperations())
	}
	return out
}

// propose proposes one run and returns the numbers of the units dropped.
func (db *DB) propose(ctx context.Context, p proposal) ([]int, error) {
	data, err := proto.Marshal(&logv1.Transaction{Units: p.units})
	if err != nil {
		return nil, fmt.Errorf("encode transaction: %w", err)
	}
	index, err := db.proposer.Propose(ctx, data)
	var partial *Partial
	var conflict *Conflict
	switch {
	case err == nil:
		return nil, db.store.WaitIndex(ctx, index)
	case errors.As(err, &partial):
		dropped := slices.Clone(partial.Units)
		for i := range dropped {
			dropped[i] += p.first
		}
		return dropped, nil
	case errors.As(err, &conflict):
		return []int{p.first}, nil
	}
	return nil, err
}
