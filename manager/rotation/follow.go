package rotation

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// maxStragglers bounds how many are named.
const maxStragglers = 1000

// goal is what nodes and users are to follow to.
type goal struct {
	// issuer is the digest of the root whose certificates they are to have.
	issuer ca.Digest
	// bundle is the digest of all roots that they are to trust.
	bundle ca.Digest
	// unsigned: the root does not sign yet, and to trust it is all there is to do.
	unsigned bool
}

// goalOf is where a rotation leads to in its phase.
func goalOf(r *modelv1.RootCA) goal {
	g := goal{issuer: ca.RootDigest(target(r.GetRotation())), unsigned: r.GetRotation().GetPhase() == trusts}
	if b, err := ca.ParseBundle(r.GetCertificates()); err == nil { // apply keeps no other
		g.bundle = b.Digest()
	}
	return g
}

// target is the root, DER, that signs in the end.
func target(r *modelv1.RootRotation) []byte {
	if r.GetPhase() == modelv1.RootPhase_ROOT_PHASE_BACK {
		return r.GetFrom().GetCertificate()
	}
	return r.GetTo().GetCertificate()
}

// bears reports whether a node has a certificate that counts: one that waits to be
// accepted has none, and one that another rotation left behind has one of a root
// that is trusted no more.
func bears(root *modelv1.RootCA, n *modelv1.Node) bool {
	return n.GetMembership() != modelv1.Membership_MEMBERSHIP_PENDING && n.GetCurrent() != nil && store.Trusted(root, n.GetCurrent().GetIssuer())
}

// live reports whether a node has a session.
func live(n *modelv1.Node) bool {
	return n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_READY
}

// trusting reports whether a node said that it trusts all the roots there are.
func (g goal) trusting(n *modelv1.Node) bool {
	return bytes.Equal(n.GetDescription().GetTrusts(), g.bundle[:])
}

// renewed reports whether a node showed a certificate of the root when it opened
// its newest session. It trusts that root then: they were given together, and are
// kept together. Of one that showed none yet, or one that is not known any more,
// all that are known must be of the root.
func (g goal) renewed(n *modelv1.Node) bool {
	shown, all := n.GetStatus().GetShown(), true
	for _, c := range []*modelv1.Certificate{n.GetCurrent(), n.GetPrevious()} {
		if c == nil {
			continue
		}
		if shown != 0 && c.GetGeneration() == shown {
			return g.given(c)
		}
		all = all && g.given(c)
	}
	return all
}

// followed reports whether nothing is left to wait for.
func (g goal) followed(n *modelv1.Node) bool {
	if g.unsigned {
		return g.trusting(n)
	}
	return g.renewed(n)
}

// given reports whether a certificate of the root was recorded for a node or user.
func (g goal) given(c *modelv1.Certificate) bool { return bytes.Equal(c.GetIssuer(), g.issuer[:]) }

// why says what keeps a node from following; it has not. A clock that is off, as a
// manager saw it with the node's newest beat, may be all there is to it.
func (g goal) why(n *modelv1.Node) string { return g.state(n) + clock(n.GetStatus()) }

// state says how far a node is that has not followed.
func (g goal) state(n *modelv1.Node) string {
	s := n.GetStatus()
	switch {
	case s.GetFarewell() == modelv1.Farewell_FAREWELL_LEAVING && !live(n):
		return "it has left the swarm and was not removed: ctl node rm"
	case s.GetState() == modelv1.NodeState_NODE_STATE_DOWN:
		return "down" + since(s) + beside(s.GetMessage())
	case !live(n) && s.GetLostSince() == 0 && s.GetSession() == 0:
		return "it was never heard since it joined"
	case !live(n):
		return "not heard" + since(s) + beside(s.GetMessage())
	case g.unsigned || !g.trusting(n) && !g.given(n.GetCurrent()):
		return "connected, but it has not taken the next root to trust" + beside(s.GetMessage())
	case g.given(n.GetCurrent()):
		return "connected, but not yet with the certificate that it was given" + beside(s.GetMessage())
	}
	return "connected, but it has not renewed its certificate" + beside(s.GetMessage())
}

// since says since when a node is lost.
func since(s *modelv1.NodeStatus) string {
	if s.GetLostSince() == 0 {
		return ""
	}
	return " since " + time.Unix(0, s.GetLostSince()).UTC().Format(time.RFC3339)
}

// clock says how far a node's clock was off the swarm's when it was heard last; ""
// if it was not.
func clock(s *modelv1.NodeStatus) string {
	by, err := id.FromBytes(s.GetClockBy())
	if s.GetClockAhead() == 0 || err != nil {
		return ""
	}
	return fmt.Sprintf("; its clock is %s the swarm's, by what manager %s says: set it, and keep it right by NTP",
		rpc.OffBy(time.Duration(s.GetClockAhead())), by.Short())
}

func beside(words string) string {
	if words == "" {
		return ""
	}
	return ": " + words
}

// counted reports whether a user's certificate is to be replaced, or was: one that
// is over is good for nothing anyway.
func counted(root *modelv1.RootCA, u *modelv1.User, now time.Time) bool {
	return u.GetCurrent() != nil && u.GetCurrent().GetNotAfter() > now.UnixNano() && store.Trusted(root, u.GetCurrent().GetIssuer())
}

// A count is how many have followed, and who has not.
type count struct {
	nodes, trusting, renewed uint64
	users, usersRenewed      uint64
	// behind is how many have not followed; the list names the first of them.
	behind     uint64
	stragglers []*modelv1.RootStraggler
	// untold are live nodes that have not taken the roots to trust.
	untold uint64
	// quorum: without those that have not followed the managers have one.
	quorum bool
}

// tally counts who follows to the goal of the rotation that is under way.
func tally(snap *store.Snapshot, now time.Time) count {
	root := snap.Cluster().GetRoot()
	g := goalOf(root)
	var out count
	for n := range snap.Nodes() {
		if bears(root, n) {
			out.node(g, n)
		}
	}
	for u := range snap.Users() {
		if counted(root, u, now) && !g.unsigned {
			out.user(g, u)
		}
	}
	voters, following := 0, 0
	for m := range snap.Members() {
		if !m.GetVoter() {
			continue
		}
		voters++
		if node, err := id.FromBytes(m.GetNode()); err == nil && g.followed(snap.Node(node)) {
			following++
		}
	}
	out.quorum = following > voters/2
	slices.SortFunc(out.stragglers, func(a, b *modelv1.RootStraggler) int {
		return cmp.Or(cmp.Compare(len(a.GetUser()), len(b.GetUser())), cmp.Compare(a.GetName(), b.GetName()),
			bytes.Compare(a.GetNode(), b.GetNode()), bytes.Compare(a.GetUser(), b.GetUser()))
	})
	return out
}

func (c *count) node(g goal, n *modelv1.Node) {
	c.nodes++
	switch {
	case g.trusting(n):
		c.trusting++
	case live(n):
		c.untold++
	}
	if g.renewed(n) {
		c.renewed++
	}
	if !g.followed(n) {
		c.straggle(&modelv1.RootStraggler{Node: n.GetId(), Name: n.GetDescription().GetHostname(), Reason: g.why(n)})
	}
}

func (c *count) user(g goal, u *modelv1.User) {
	c.users++
	if g.given(u.GetCurrent()) {
		c.usersRenewed++
		return
	}
	until := time.Unix(0, u.GetCurrent().GetNotAfter()).UTC().Format(time.RFC3339)
	c.straggle(&modelv1.RootStraggler{User: u.GetId(), Name: u.GetName(),
		Reason: fmt.Sprintf("certificate of the former root until %s: the user runs ctl user renew, or an admin ctl user renew %s -o FILE", until, u.GetName())})
}

func (c *count) straggle(s *modelv1.RootStraggler) {
	c.behind++
	if len(c.stragglers) < maxStragglers {
		c.stragglers = append(c.stragglers, s)
	}
}

// View is the root as it is shown, and how far a rotation of it is.
func View(snap *store.Snapshot) *controlv1.RootView {
	root, now := snap.Cluster().GetRoot(), snap.Now()
	out := &controlv1.RootView{
		Certificates: root.GetCertificates(), Last: root.GetLast(), Now: now.UnixNano(), Cluster: snap.Cluster().GetId(),
	}
	r := root.GetRotation()
	if r == nil {
		return out
	}
	c := tally(snap, now)
	out.Rotation = &controlv1.RotationView{
		Id: r.GetId(), Phase: r.GetPhase(), Target: target(r), StartedAt: r.GetStartedAt(), Deadline: r.GetDeadline(),
		OnStraggler: r.GetOnStraggler(), By: r.GetBy(), Nodes: c.nodes, Trusting: c.trusting, Renewed: c.renewed,
		Users: c.users, UsersRenewed: c.usersRenewed, Stragglers: c.stragglers, Behind: c.behind,
	}
	return out
}
