package store

import (
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// putUser writes a user. The name of one that is there never changes: messages
// and answered requests are kept under it.
func (s *state) putUser(u *modelv1.User) *Conflict {
	if bad := badID(KindUser, u.GetId()); bad != nil {
		return bad
	}
	old, had := s.users.get(u)
	if had && old.GetName() != u.GetName() {
		return refuse(KindUser, u.GetId(), "is called %s and stays so", old.GetName())
	}
	u.Meta = s.stamp(old.GetMeta())
	put(s, &s.users, u, userChange(u))
	return nil
}

func userChange(u *modelv1.User) Change { return Change{Kind: KindUser, Key: u.GetId()} }

// removeUser deletes a user and the claims it owns. One that is not there is
// deleted already.
func (s *state) removeUser(x id.ID) {
	if u, ok := s.users.get(&modelv1.User{Id: x[:]}); ok {
		drop(s, &s.users, u, userChange(u))
		s.dropClaimsOf(x)
	}
}
