package enrol

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// keepBeat is how often the leader looks whether time has ended something. What
	// is over is refused from its end on, whether this was noted yet or not.
	keepBeat = 5 * time.Second
	// TokensKept and maxEnded bound how long, and how many of, the tokens that are
	// over are remembered.
	TokensKept = 30 * 24 * time.Hour
	maxEnded   = 1000
	// Overlap is how long a standing token that the clock took the place of still
	// lets nodes in; at most as long as the interval.
	Overlap = time.Hour
)

// Keep ends for a tenure what time ends: tokens, nodes that wait, standing tokens
// that are to be rotated. It reads everything anew at each beat, so a new leader
// goes on where the last one stopped. It returns when ctx ends.
func (m *Members) Keep(ctx context.Context, log *slog.Logger) error {
	t := time.NewTicker(keepBeat)
	defer t.Stop()
	for {
		if err := m.keepOnce(ctx); err != nil && ctx.Err() == nil {
			log.LogAttrs(ctx, slog.LevelDebug, "tokens are looked after again later", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// keepOnce writes what is due, nothing if nothing is.
func (m *Members) keepOnce(ctx context.Context) error {
	worker, manager := ca.NewTokenSecret(), ca.NewTokenSecret()
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) error {
		if tx.Cluster() == nil {
			return nil
		}
		at := tx.Base().Now()
		if c := rotated(tx.Cluster(), at, worker.Reveal(), manager.Reveal()); c != nil {
			if err := tx.PutCluster(c); err != nil {
				return err
			}
		}
		if err := lapse(tx, at); err != nil {
			return err
		}
		return endTokens(tx, at)
	})
	return err
}

// rotated returns the cluster with what time makes of its standing tokens; nil if
// it stays as it is.
func rotated(c *modelv1.Cluster, at time.Time, worker, manager []byte) *modelv1.Cluster {
	every, nanos := c.GetSpec().GetTokenRotation(), at.UnixNano()
	off := every == 0 || c.GetSpec().GetNoStandingTokens() || c.GetCondemnation() != nil // there are no tokens then
	due := !off && (c.GetTokensRotatedAt() == 0 || nanos >= c.GetTokensRotatedAt()+every)
	over := c.GetPreviousUntil() != 0 && nanos >= c.GetPreviousUntil()
	if !due && !over && (!off || c.GetTokensRotatedAt() == 0) {
		return nil
	}
	out := proto.CloneOf(c)
	if over {
		out.PreviousWorkerToken, out.PreviousManagerToken, out.PreviousUntil = nil, nil, 0
	}
	switch {
	case off:
		out.TokensRotatedAt = 0
	case due && c.GetTokensRotatedAt() == 0:
		out.TokensRotatedAt = nanos // the clock was just set
	case due:
		out.PreviousWorkerToken, out.PreviousManagerToken = c.GetWorkerToken(), c.GetManagerToken()
		out.WorkerToken, out.ManagerToken = worker, manager
		out.TokensRotatedAt, out.PreviousUntil = nanos, nanos+min(int64(Overlap), every)
	}
	return out
}

// lapse sends away the nodes that nobody accepted in time.
func lapse(tx *store.Tx, at time.Time) error {
	var late []*modelv1.Node
	for n := range tx.Nodes() {
		if n.GetMembership() == pending && at.UnixNano() >= pendingUntil(n) {
			late = append(late, n)
		}
	}
	for _, n := range late {
		if t := tx.TokenByHash(n.GetTokenHash()); t != nil {
			t = proto.CloneOf(t)
			for _, u := range t.GetUsed() {
				if string(u.GetNode()) == string(n.GetId()) {
					u.Verdict = modelv1.TokenVerdict_TOKEN_VERDICT_LAPSED
				}
			}
			if err := tx.PutToken(t); err != nil {
				return err
			}
		}
		if err := tx.Delete(store.KindNode, n.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// endTokens notes which tokens time or a new history has ended, and forgets those
// that are over for long, and the oldest of too many.
func endTokens(tx *store.Tx, at time.Time) error {
	var over []*modelv1.JoinToken
	var ended []*modelv1.JoinToken
	for t := range tx.Tokens() {
		if t.GetEnd() != 0 {
			ended = append(ended, t)
		} else if x := endOf(t, tx.Cluster(), at); x != nil {
			over = append(over, x)
		}
	}
	for _, t := range over {
		if err := tx.PutToken(t); err != nil {
			return err
		}
	}
	slices.SortFunc(ended, func(a, b *modelv1.JoinToken) int {
		return cmp.Or(cmp.Compare(a.GetEndedAt(), b.GetEndedAt()), id.Compare(idOf(a.GetId()), idOf(b.GetId())))
	})
	for i, t := range ended {
		if len(ended)-i <= maxEnded && at.UnixNano() < t.GetEndedAt()+int64(TokensKept) {
			break
		}
		if err := tx.Delete(store.KindToken, t.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// endOf returns the token as one that is over, nil if it is not.
func endOf(t *modelv1.JoinToken, c *modelv1.Cluster, at time.Time) *modelv1.JoinToken {
	var end modelv1.TokenEnd
	var why string
	switch {
	case string(t.GetHistory()) != string(c.GetHistory()):
		end, why = modelv1.TokenEnd_TOKEN_END_REVOKED, "the swarm was restored or founded anew since it was made"
	case at.UnixNano() >= t.GetExpiresAt():
		end = modelv1.TokenEnd_TOKEN_END_EXPIRED
	default:
		return nil
	}
	t = proto.CloneOf(t)
	t.End, t.EndedAt, t.EndReason = end, at.UnixNano(), why
	return t
}
