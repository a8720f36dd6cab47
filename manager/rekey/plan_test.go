package rekey

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// fleet is managers and what they keep, to play rotations with: leaders come and
// go, managers die and are demoted, at any moment.
type fleet struct {
	t        *rapid.T
	cluster  *modelv1.Cluster
	managers []manager
	rings    map[string]map[uint32]int // node → number → which key of that number
	keys     int                       // drawn so far
	drawn    map[uint32]int            // number → the key that was given out
	leader   string
}

func newFleet(t *rapid.T, n int) *fleet {
	f := &fleet{t: t, cluster: &modelv1.Cluster{}, rings: map[string]map[uint32]int{}, drawn: map[uint32]int{1: 0}}
	for i := range n {
		name := fmt.Sprint("node", i)
		f.managers = append(f.managers, manager{node: name, voter: true, answers: true})
		f.rings[name] = map[uint32]int{1: 0}
	}
	f.leader = f.managers[0].node
	return f
}

func (f *fleet) world() world {
	ring := f.rings[f.leader]
	w := world{
		cluster: f.cluster, managers: f.managers, self: f.leader,
		wanted: func(node string) bool { return f.member(node) != nil },
		held:   func(key uint32) bool { _, ok := ring[key]; return ok },
	}
	for key := range ring {
		w.newest = max(w.newest, key)
	}
	return w
}

func (f *fleet) member(node string) *manager {
	for i := range f.managers {
		if f.managers[i].node == node {
			return &f.managers[i]
		}
	}
	return nil
}

// step takes the step that is next, and reports whether there was one.
func (f *fleet) step() bool {
	before := f.cluster
	s := plan(f.world())
	if again := plan(f.world()); again.says != s.says || again.draw != s.draw {
		f.t.Fatalf("equal worlds give %q and %q", s.says, again.says)
	}
	if s.draw > 0 {
		if _, twice := f.drawn[s.draw]; twice && f.rings[f.leader][s.draw] == 0 {
			f.t.Fatalf("key %d is drawn a second time", s.draw)
		}
		f.keys++
		f.rings[f.leader][s.draw], f.drawn[s.draw] = f.keys, f.keys
		return true
	}
	if s.change == nil {
		return false
	}
	f.cluster = proto.CloneOf(f.cluster)
	s.change(f.cluster)
	if proto.Equal(before, f.cluster) {
		f.t.Fatalf("the step %q changes nothing", s.says)
	}
	f.check(before)
	return true
}

// check is what must be true after every step.
func (f *fleet) check(before *modelv1.Cluster) {
	active := store.ActiveKey(f.cluster)
	if was := store.ActiveKey(before); active < was {
		f.t.Fatalf("key %d is in use after key %d", active, was)
	} else if active > was {
		safe := 0
		for _, m := range f.managers {
			if _, ok := f.rings[m.node][active]; ok {
				safe++
			} else if m.answers {
				f.t.Fatalf("key %d is in use and %s, which answers, has not kept it", active, m.node)
			}
		}
		if safe <= len(f.managers)/2 {
			f.t.Fatalf("key %d is in use and %d of %d have kept it", active, safe, len(f.managers))
		}
	}
}

// hear has a manager that answers fetch what is offered and say what it keeps.
func (f *fleet) hear(m manager) bool {
	before := proto.CloneOf(f.cluster)
	for _, key := range []uint32{store.ActiveKey(f.cluster), f.cluster.GetDataKey().GetOffered()} {
		if _, has := f.rings[m.node][key]; has || key == 0 || string(f.cluster.GetDataKey().GetDrawer()) == m.node && key == f.cluster.GetDataKey().GetOffered() {
			continue
		}
		for _, other := range f.managers {
			if k, ok := f.rings[other.node][key]; ok && other.answers {
				f.rings[m.node][key] = k
			}
		}
	}
	newest := uint32(0)
	for key := range f.rings[m.node] {
		newest = max(newest, key)
	}
	f.cluster = proto.CloneOf(f.cluster)
	edit(f.cluster, []byte(m.node), func(h *modelv1.KeyHolder) { h.Kept = newest })
	return !proto.Equal(before, f.cluster)
}

// rest lets everything happen that can; it fails if that never ends.
func (f *fleet) rest() {
	for range 200 {
		moved := f.step()
		for _, m := range f.managers {
			if m.answers {
				moved = f.hear(m) || moved
			}
		}
		if !moved {
			return
		}
	}
	f.t.Fatal("a rotation never ends")
}

// TestARotationEndsAndNoNumberHasTwoKeys plays with leaders that change and managers
// that go at any moment.
func TestARotationEndsAndNoNumberHasTwoKeys(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t, rapid.IntRange(3, 7).Draw(t, "managers"))
		f.rest()
		exposed := uint32(0) // the newest key that somebody took along
		for range rapid.IntRange(1, 40).Draw(t, "moments") {
			m := rapid.SampledFrom(f.managers).Draw(t, "who")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				f.step()
			case 1:
				if m.answers {
					f.hear(m)
				}
			case 2: // another leads
				if m.answers {
					f.leader = m.node
				}
			case 3: // one stops or comes back, a minority at most
				down := 0
				for _, x := range f.managers {
					if !x.answers {
						down++
					}
				}
				if m.node != f.leader && (!m.answers || down+1 <= (len(f.managers)-1)/2) {
					f.member(m.node).answers = !m.answers
				}
			case 4: // one is demoted
				if m.node != f.leader && len(f.managers) > 3 {
					for key := range f.rings[m.node] {
						exposed = max(exposed, key)
					}
					f.managers = slices.DeleteFunc(f.managers, func(x manager) bool { return x.node == m.node })
				}
			case 5: // autolock is turned on
				f.cluster = proto.CloneOf(f.cluster)
				store.StaleKeys(f.cluster, "asked for")
				exposed = max(exposed, f.cluster.GetDataKey().GetStale())
			}
		}
		for i := range f.managers {
			f.managers[i].answers = true
		}
		f.rest()
		d := f.cluster.GetDataKey()
		if active := store.ActiveKey(f.cluster); active <= exposed && exposed > 0 || d.GetOffered() > 0 || active > 1 && !d.GetSettled() {
			t.Fatalf("at rest with %v, key %d was exposed", d, exposed)
		}
		if len(f.cluster.GetKeyHolders()) != len(f.managers) {
			t.Errorf("%d holders are listed, there are %d managers", len(f.cluster.GetKeyHolders()), len(f.managers))
		}
		for _, m := range f.managers {
			if k, ok := f.rings[m.node][store.ActiveKey(f.cluster)]; !ok || k != f.drawn[store.ActiveKey(f.cluster)] {
				t.Errorf("%s has another key %d than the others", m.node, store.ActiveKey(f.cluster))
			}
		}
	})
}

func TestNobodyIsWaitedForWhoIsDownIfTheRestIsAQuorum(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t, 5)
		f.managers[3].answers, f.managers[4].answers = false, false
		store.StaleKeys(f.cluster, "asked for")
		if f.rest(); store.ActiveKey(f.cluster) != 2 {
			t.Fatalf("with three of five the key in use is %d", store.ActiveKey(f.cluster))
		}
		f.managers[2].answers = false
		store.StaleKeys(f.cluster, "asked for again")
		if f.rest(); store.ActiveKey(f.cluster) != 2 {
			t.Fatal("a key is in use that two of five have kept")
		}
	})
}
