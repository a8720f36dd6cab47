package condemn

import (
	"bytes"
	"slices"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// An action is what is to be done next.
type action int

const (
	// wait: others have to do something first, or nothing is to be done.
	wait action = iota
	// endTokens: join tokens that were made are revoked, some at a time.
	endTokens
	// putOut: the condemned are no managers any more; those that are to be removed
	// go, and the data key is to be replaced.
	putOut
	// replace: the unlock key becomes another, and a rotation of the root begins.
	replace
	// end: the former root is trusted no more.
	end
)

// plan says what is next. Equal snapshots give equal plans.
func plan(snap *store.Snapshot) action {
	c := snap.Cluster()
	x := c.GetCondemnation()
	switch {
	case x == nil:
		return wait
	case len(liveTokens(snap, 1)) > 0:
		return endTokens
	case slices.ContainsFunc(x.GetNodes(), func(n *modelv1.Condemned) bool { return manages(snap, n.GetNode()) }):
		return wait
	case x.GetStep() < dataKey:
		return putOut
	case x.GetStep() == dataKey && resealed(c):
		return replace
	case x.GetStep() == dataKey, c.GetRoot().GetRotation() != nil:
		return wait
	case signs(c):
		return replace // the rotation came to nothing
	}
	return end
}

// manages reports whether a node is a manager, or has a vote.
func manages(snap *store.Snapshot, node []byte) bool {
	x, err := id.FromBytes(node)
	return err == nil && (snap.Node(x).GetRole() == modelv1.Role_ROLE_MANAGER || snap.MemberByNode(x) != nil)
}

// holds reports whether one of the condemned is known to hold data keys of which no
// one has said yet that they are to be replaced.
func holds(c *modelv1.Cluster) bool {
	return slices.ContainsFunc(c.GetKeyHolders(), func(h *modelv1.KeyHolder) bool { return Find(c.GetCondemnation(), h.GetNode()) != nil })
}

// resealed reports whether all that is proposed now is sealed under a data key that
// the condemned do not have. Settled says that entries which were in flight are
// behind.
func resealed(c *modelv1.Cluster) bool {
	d := c.GetDataKey()
	return store.ActiveKey(c) > max(c.GetCondemnation().GetDataKey(), d.GetStale()) && d.GetOffered() == 0 && d.GetSettled() && !holds(c)
}

// signs reports whether a root signs whose key the condemned have.
func signs(c *modelv1.Cluster) bool {
	d := store.Signer(c.GetRoot())
	return owns(c.GetCondemnation(), d[:])
}

// elsewhere reports whether the root's key is not in the swarm, and none is that is to
// sign: then the condemned have none.
func elsewhere(r *modelv1.RootCA) bool {
	return len(r.GetKey()) == 0 && len(r.GetRotation().GetTo().GetKey()) == 0
}

// known are the digests of all roots that there are, and that a rotation which is
// under way leads from and to.
func known(r *modelv1.RootCA) (out [][]byte) {
	ders := slices.Concat(r.GetCertificates(), r.GetRotation().GetDropped(), [][]byte{r.GetRotation().GetFrom().GetCertificate(), r.GetRotation().GetTo().GetCertificate()})
	for _, der := range ders {
		d := ca.RootDigest(der)
		if len(der) > 0 && !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, d[:]) }) {
			out = append(out, d[:])
		}
	}
	return out
}

// liveTokens are at most n join tokens that let nodes in, by id.
func liveTokens(snap *store.Snapshot, n int) (out []id.ID) {
	for t := range snap.Tokens() {
		if x, err := id.FromBytes(t.GetId()); err == nil && t.GetEnd() == 0 {
			if out = append(out, x); len(out) == n {
				break
			}
		}
	}
	return out
}
