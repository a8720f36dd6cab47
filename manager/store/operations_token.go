package store

import (
	"bytes"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func tokenOrders() []order[*modelv1.JoinToken] {
	return []order[*modelv1.JoinToken]{
		{less: func(a, b *modelv1.JoinToken) bool { return bytes.Compare(a.GetId(), b.GetId()) < 0 }},
		{less: func(a, b *modelv1.JoinToken) bool {
			if c := bytes.Compare(a.GetSecretHash(), b.GetSecretHash()); c != 0 {
				return c < 0
			}
			return bytes.Compare(a.GetId(), b.GetId()) < 0
		}},
	}
}

// putToken writes a join token. It counts its uses: there are never more than the
// token allows, none is taken back, and what the token allows never changes.
func (s *state) putToken(t *modelv1.JoinToken) *Conflict {
	if bad := badID(KindToken, t.GetId()); bad != nil {
		return bad
	}
	old, had := s.tokens.get(t)
	switch {
	case len(t.GetSecretHash()) == 0:
		return refuse(KindToken, t.GetId(), "has no secret")
	case uint64(len(t.GetUsed())) > uint64(t.GetUses()):
		return refuse(KindToken, t.GetId(), "was used %d times already", t.GetUses())
	case had && !sameToken(old, t):
		return refuse(KindToken, t.GetId(), "allows what it was made for and stays so")
	case !had:
		if other := (&Snapshot{state: s}).TokenByHash(t.GetSecretHash()); other != nil {
			return refuse(KindToken, t.GetId(), "has the secret of token %s", asID(other.GetId()))
		}
	}
	t.Meta = s.stamp(old.GetMeta())
	put(s, &s.tokens, t, tokenChange(t))
	return nil
}

// sameToken reports whether t may take the place of old: what it allows is the
// same, and its uses go on from old's.
func sameToken(old, t *modelv1.JoinToken) bool {
	if !bytes.Equal(old.GetSecretHash(), t.GetSecretHash()) || old.GetRole() != t.GetRole() ||
		old.GetUses() != t.GetUses() || old.GetApprove() != t.GetApprove() || old.GetExpiresAt() != t.GetExpiresAt() ||
		old.GetEnd() != 0 && t.GetEnd() != old.GetEnd() || len(t.GetUsed()) < len(old.GetUsed()) {
		return false
	}
	for i, u := range old.GetUsed() {
		if !bytes.Equal(u.GetNode(), t.GetUsed()[i].GetNode()) {
			return false
		}
	}
	return true
}

func tokenChange(t *modelv1.JoinToken) Change { return Change{Kind: KindToken, Key: t.GetId()} }

// removeToken deletes a join token. One that is not there is deleted already.
func (s *state) removeToken(x id.ID) {
	if t, ok := s.tokens.get(&modelv1.JoinToken{Id: x[:]}); ok {
		drop(s, &s.tokens, t, tokenChange(t))
	}
}
