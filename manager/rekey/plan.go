package rekey

import (
	"cmp"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A manager is a member of the group as a plan sees it.
type manager struct {
	node  string // its id's bytes
	voter bool
	// answers: it is heard by the leader; the leader itself always is.
	answers bool
}

// world is what a plan is made from.
type world struct {
	cluster  *modelv1.Cluster
	managers []manager
	// wanted reports whether a node's record says that it is to be a manager.
	wanted func(node string) bool
	// held reports whether the leader has kept a data key, and newest is the
	// greatest number in its ring.
	held   func(key uint32) bool
	newest uint32
	// self is the leader's node.
	self string
}

// A step is the next change of the cluster's record. Its zero value is none.
type step struct {
	// draw is the number of a key that is to be drawn and kept; 0: none. It was
	// offered before, so that nobody else draws one of that number.
	draw uint32
	// change edits a copy of the record; nil: nothing is to be done to it.
	change func(*modelv1.Cluster)
	// says what it is, for the log, and level how loud.
	says  string
	level slog.Level
}

// plan says which step is next. Equal worlds give equal plans.
func plan(w world) step {
	if s := holders(w); s.change != nil {
		return s
	}
	d, active := w.cluster.GetDataKey(), store.ActiveKey(w.cluster)
	offered := d.GetOffered()
	switch {
	case offered > d.GetStale() && offered > active && w.held(offered):
		if !kept(w, offered) {
			return step{}
		}
		return step{says: "another data key is put to use", change: func(c *modelv1.Cluster) {
			c.DataKey.Active, c.DataKey.Offered, c.DataKey.Settled = offered, 0, false
		}}
	case offered > d.GetStale() && offered > active && string(d.GetDrawer()) == w.self:
		return step{draw: offered}
	case offered > 0, active <= d.GetStale():
		// None is offered, or one that somebody has who should not, or one that was
		// lost with the leader that was to draw it.
		next := 1 + max(w.newest, active, offered, d.GetStale())
		return step{says: "another data key is offered to the managers", change: func(c *modelv1.Cluster) {
			c.DataKey.Offered, c.DataKey.Drawer = next, []byte(w.self)
		}}
	case active > 1 && !d.GetSettled():
		return step{says: "the former data keys are out of use", change: func(c *modelv1.Cluster) { c.DataKey.Settled = true }}
	}
	return step{}
}

// holders keeps the list of who was given data keys: members belong to it, and
// what one holds who is none any more and is not to be one is stale.
func holders(w world) step {
	listed, member := map[string]bool{}, map[string]bool{}
	for _, h := range w.cluster.GetKeyHolders() {
		listed[string(h.GetNode())] = true
	}
	var missing []string
	for _, m := range w.managers {
		if member[m.node] = true; !listed[m.node] {
			missing = append(missing, m.node)
		}
	}
	gone := func(h *modelv1.KeyHolder) bool { n := string(h.GetNode()); return !member[n] && !w.wanted(n) }
	switch {
	case slices.ContainsFunc(w.cluster.GetKeyHolders(), gone):
		return step{says: "a node that had the data keys is no manager any more, and they are replaced", change: func(c *modelv1.Cluster) {
			c.KeyHolders = slices.DeleteFunc(c.GetKeyHolders(), gone)
			store.StaleKeys(c, "a node that had it is no manager any more")
		}}
	case len(missing) > 0:
		slices.Sort(missing)
		return step{says: "managers hold the data keys", level: slog.LevelDebug, change: func(c *modelv1.Cluster) {
			for _, n := range missing {
				edit(c, []byte(n), func(*modelv1.KeyHolder) {})
			}
		}}
	}
	return step{}
}

// kept reports whether a key is safe to use: every manager that answers has kept
// it, and a majority of the voters has.
func kept(w world, key uint32) bool {
	has := map[string]bool{}
	for _, h := range w.cluster.GetKeyHolders() {
		has[string(h.GetNode())] = h.GetKept() >= key
	}
	voters, safe := 0, 0
	for _, m := range w.managers {
		switch {
		case m.answers && !has[m.node]:
			return false
		case m.voter && has[m.node]:
			safe++
		}
		if m.voter {
			voters++
		}
	}
	return safe > voters/2
}

// edit changes the entry of a node in the list of holders, and makes one if there is
// none. c is the caller's own copy.
func edit(c *modelv1.Cluster, node []byte, change func(*modelv1.KeyHolder)) {
	at, found := slices.BinarySearchFunc(c.GetKeyHolders(), node, func(h *modelv1.KeyHolder, n []byte) int {
		return cmp.Compare(string(h.GetNode()), string(n))
	})
	h := &modelv1.KeyHolder{Node: node}
	if found {
		h = proto.CloneOf(c.GetKeyHolders()[at])
		c.KeyHolders[at] = h
	} else {
		c.KeyHolders = slices.Insert(c.GetKeyHolders(), at, h)
	}
	change(h)
}
