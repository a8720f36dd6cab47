package consensus

import "testing"

func TestANewLeaderKnowsWhoHandedOverAndWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2, 3)
	b.elect(1)
	b.tick(1)
	if !b.cores[1].Transfer("its clock is off") {
		t.Fatal("nobody to hand over to")
	}
	b.settle()
	leader := b.leader()
	if st := leader.Status(); st.HandedBy != 1 || st.HandedWhy != "its clock is off" {
		t.Errorf("handed over by %d because %q, want by 1 because its clock is off", st.HandedBy, st.HandedWhy)
	}
	b.dark[leader.Status().RaftID] = true
	b.tick(100)
	if st := b.leader().Status(); st.HandedBy != 0 || st.HandedWhy != "" {
		t.Errorf("who took it himself says that %d handed it over because %q", st.HandedBy, st.HandedWhy)
	}
}

// leader returns who leads among those that are heard.
func (b *bench) leader() *Core {
	b.t.Helper()
	for _, m := range b.members() {
		if c := b.cores[m]; !b.dark[m] && c.Status().Leading {
			return c
		}
	}
	b.t.Fatal("nobody leads")
	return nil
}
