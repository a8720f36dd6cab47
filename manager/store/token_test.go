package store

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var tok = num(700)

func TestATokenIsUsedNoMoreOftenThanItAllows(t *testing.T) {
	t.Parallel()
	s := New()
	must(t, s, opToken(tok, "h", 2))
	must(t, s, opToken(tok, "h", 2, node1))
	must(t, s, opToken(tok, "h", 2, node1, num(3)))
	refused(t, s, "a third use", opToken(tok, "h", 2, node1, num(3), num(4)))
	refused(t, s, "a use that is taken back", opToken(tok, "h", 2, node1))
	refused(t, s, "a use that becomes another's", opToken(tok, "h", 2, node1, num(4)))
	refused(t, s, "more uses than it was made for", opToken(tok, "h", 3, node1, num(3), num(4)))
	refused(t, s, "another secret", opToken(tok, "other", 2, node1, num(3)))
	refused(t, s, "two tokens of one secret", opToken(num(701), "h", 1))
	refused(t, s, "a token without a secret", opToken(num(701), "", 1))
	refused(t, s, "a token without an id", opToken(num(0), "x", 1))
	if got := s.Snapshot().TokenByHash([]byte("h")); len(got.GetUsed()) != 2 {
		t.Errorf("the token is %v", got)
	}
	must(t, s, opDelete(KindToken, tok.Bytes()), opDelete(KindToken, num(999).Bytes()))
	if s.Snapshot().CountTokens() != 0 || s.Snapshot().TokenByHash([]byte("h")) != nil {
		t.Error("something is left of a token that was deleted")
	}
	must(t, s, opToken(num(701), "h", 1))
}

func TestATokenThatIsOverStaysSo(t *testing.T) {
	t.Parallel()
	s := New()
	over := func(end modelv1.TokenEnd) *logv1.Operation {
		op := opToken(tok, "h", 2)
		op.GetPutToken().End = end
		return op
	}
	must(t, s, over(modelv1.TokenEnd_TOKEN_END_UNSPECIFIED))
	must(t, s, over(modelv1.TokenEnd_TOKEN_END_REVOKED))
	refused(t, s, "a token that is over and back", over(modelv1.TokenEnd_TOKEN_END_UNSPECIFIED))
	refused(t, s, "another end", over(modelv1.TokenEnd_TOKEN_END_EXPIRED))
}

// TestOfAllWhoSawAnUnusedTokenOneWins: every racer made its use from the same
// state; apply takes one, whatever the order.
func TestOfAllWhoSawAnUnusedTokenOneWins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		uses, racers := rapid.Uint32Range(1, 5).Draw(t, "uses"), rapid.IntRange(1, 30).Draw(t, "racers")
		s := New()
		apply := func(u *logv1.Unit) error {
			next := s.Snapshot().Index() + 1
			return s.ApplyProto(next, int64(next), []*logv1.Transaction{transaction(u)})[0]
		}
		if err := apply(unit(opToken(tok, "h", uses))); err != nil {
			t.Fatal(err)
		}
		stale := make([]*logv1.Unit, racers)
		for i := range stale {
			tx := newTx(s.Snapshot())
			v := proto.CloneOf(tx.Token(tok))
			v.Used = append(v.Used, &modelv1.TokenUse{Node: num(uint64(i) + 1).Bytes()})
			if err := tx.PutToken(v); err != nil {
				t.Fatal(err)
			}
			stale[i] = tx.finish()
		}
		won := 0
		for _, u := range stale {
			if apply(u) == nil {
				won++
			}
		}
		if got := len(s.Snapshot().Token(tok).GetUsed()); won != 1 || got != 1 {
			t.Fatalf("%d of %d racers won, the token counts %d uses", won, racers, got)
		}
	})
}
