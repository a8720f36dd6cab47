package store

import (
	"testing"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var alice = num(600)

func TestAUserIsKeptUnderOneNameAndGoesWithIt(t *testing.T) {
	t.Parallel()
	s := New()
	must(t, s, opUser(alice, "alice"), opClaim(ClaimUserName, "alice", alice))
	refused(t, s, "a second user of the name", opUser(num(601), "alice"), opClaim(ClaimUserName, "alice", num(601)))
	refused(t, s, "another name for a user", opUser(alice, "bob"))
	refused(t, s, "a user without an id", opUser(num(0), "nobody"))
	if u := s.Snapshot().User(alice); u.GetName() != "alice" || u.GetMeta().GetVersion() != 1 {
		t.Errorf("the user is %v", u)
	}
	w := s.Watch(Key{Kind: KindUser})
	defer w.Close()
	must(t, s, opDelete(KindUser, alice.Bytes()), opDelete(KindUser, num(700).Bytes()))
	if changes, reset := w.Take(); reset || len(changes) != 1 || !changes[0].Deleted || changes[0].ID() != alice {
		t.Errorf("the watch heard %v", changes)
	}
	if _, held := s.Snapshot().Holder(ClaimUserName, "alice"); held || s.Snapshot().User(alice) != nil {
		t.Error("something is left of a user that was deleted")
	}
	must(t, s, opUser(num(601), "alice"), opClaim(ClaimUserName, "alice", num(601)))
}

func TestAUserMadeFromAnOlderOneIsRefused(t *testing.T) {
	t.Parallel()
	s := New()
	must(t, s, opUser(alice, "alice"))
	old := s.Snapshot().User(alice)
	must(t, s, opUser(alice, "alice"))
	tx := newTx(s.Snapshot())
	if err := tx.PutUser(old); err == nil {
		t.Error("a change made from an older record was taken")
	}
	if err := tx.PutUser(s.Snapshot().User(alice)); err != nil {
		t.Error(err)
	}
	if err := tx.PutUser(&modelv1.User{Id: alice.Bytes(), Name: "alice"}); err == nil {
		t.Error("a user that is there was made anew")
	}
}
