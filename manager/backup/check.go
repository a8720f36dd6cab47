package backup

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// maxFaults bounds what Check says; one more line says that there are others.
const maxFaults = 50

// Check says what is wrong with the state: each a sentence without a full stop,
// nothing if a swarm can be founded on it. It judges what the objects say of each
// other, and the authority's times by now.
func (im *Image) Check(now time.Time) []string {
	c := &checker{snap: im.Store.Snapshot(), now: now}
	c.authority()
	c.nodes()
	c.members()
	c.services()
	c.revisions()
	c.tasks()
	c.claims()
	if c.more > 0 {
		c.faults = append(c.faults, fmt.Sprintf("%d more of the kind", c.more))
	}
	return c.faults
}

// checker collects faults.
type checker struct {
	snap   *store.Snapshot
	now    time.Time
	faults []string
	more   int
}

// need notes a fault unless ok.
func (c *checker) need(ok bool, format string, args ...any) {
	switch {
	case ok:
	case len(c.faults) < maxFaults:
		c.faults = append(c.faults, fmt.Sprintf(format, args...))
	default:
		c.more++
	}
}

// meta checks that an object was not written after the state it is in.
func (c *checker) meta(what string, m *modelv1.Meta) {
	last := c.snap.Index()
	c.need(m.GetVersion() > 0 && m.GetVersion() <= last && m.GetCreatedIndex() <= m.GetVersion(),
		"%s was made by entry %d and written by entry %d, and the state ends at %d", what, m.GetCreatedIndex(), m.GetVersion(), last)
}

// authority checks the roots and the key that signs.
func (c *checker) authority() {
	cluster := c.snap.Cluster()
	c.meta("the cluster", cluster.GetMeta())
	ders := cluster.GetRoot().GetCertificates()
	if _, err := ca.ParseBundle(ders); err != nil {
		c.need(false, "%v", err)
		return
	}
	root, err := x509.ParseCertificate(ders[0])
	if err != nil {
		c.need(false, "the root certificate: %v", err)
		return
	}
	c.need(ca.InTime(root, c.now) == nil, "the root is valid from %s to %s, and the clock here says %s",
		root.NotBefore.UTC().Format(time.RFC3339), root.NotAfter.UTC().Format(time.RFC3339), c.now.UTC().Format(time.RFC3339))
	c.need(cluster.GetRoot().GetGiven() || strings.Join(root.Subject.Organization, "") == asID(cluster.GetId()).String(), "the root is of another cluster, %s", root.Subject)
	if len(cluster.GetRoot().GetExternal()) > 0 {
		c.need(len(cluster.GetRoot().GetKey()) == 0, "the root's key is said to be at an external CA, and is there")
		return
	}
	c.need(signs(cluster.GetRoot().GetKey(), root), "the root's key is not that of its certificate")
}

// signs reports whether key, in PKCS#8, is the certificate's.
func signs(key []byte, cert *x509.Certificate) bool {
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return false
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

func (c *checker) nodes() {
	for n := range c.snap.Nodes() {
		x := asID(n.GetId())
		c.need(!x.IsZero(), "a node has no id")
		c.meta("node "+x.Short(), n.GetMeta())
		c.need(n.GetRole() != 0 && n.GetSpec().GetRole() != 0, "node %s has no role", x.Short())
		if n.GetCurrent() != nil || n.GetMembership() == modelv1.Membership_MEMBERSHIP_ACCEPTED && len(n.GetTokenHash()) == 0 {
			c.certificate(x, n.GetCurrent()) // one that waits, or was just accepted, has none yet
		}
		if name := n.GetSpec().GetName(); name != "" {
			c.held(store.ClaimNodeName, name, x)
		}
	}
}

// certificate checks that a node's certificate was signed by one of the roots.
func (c *checker) certificate(node id.ID, cert *modelv1.Certificate) {
	c.need(cert.GetGeneration() > 0 && len(cert.GetKeySha256()) == len(ca.Digest{}), "node %s has no certificate", node.Short())
	if c.snap.Cluster().GetRoot().GetTrust() > 0 {
		return // a rotation may have left the node behind
	}
	for _, der := range c.snap.Cluster().GetRoot().GetCertificates() {
		if digest := ca.RootDigest(der); bytes.Equal(digest[:], cert.GetIssuer()) {
			return
		}
	}
	c.need(false, "the certificate of node %s was signed by none of the roots", node.Short())
}

func (c *checker) members() {
	managers := 0
	for m := range c.snap.Members() {
		managers++
		x := asID(m.GetNode())
		c.meta(fmt.Sprintf("member %x", m.GetRaftId()), m.GetMeta())
		c.need(c.snap.Node(x) != nil, "manager %x is on node %s, which does not exist", m.GetRaftId(), x.Short())
		c.need(m.GetAddress() != "", "manager %x has no address", m.GetRaftId())
	}
	c.need(managers > 0, "there is no manager")
}

func (c *checker) services() {
	for v := range c.snap.Services() {
		x, name := asID(v.GetId()), v.GetSpec().GetName()
		c.need(!x.IsZero() && name != "", "service %s has no name", x.Short())
		c.meta("service "+name, v.GetMeta())
		c.need(v.GetSpec().GetMode() != nil, "service %s is neither replicated nor global", name)
		for _, number := range []uint64{v.GetCurrent(), v.GetPrevious(), v.GetTarget()} {
			c.need(number == 0 || c.snap.Revision(x, number) != nil, "service %s names its revision %d, which does not exist", name, number)
		}
		c.need(v.GetCurrent() > 0 || v.GetTarget() > 0, "service %s has no revision", name)
		if !v.GetRemoving() { // its name is another's to take by then
			c.held(store.ClaimServiceName, name, x)
		}
	}
}

func (c *checker) revisions() {
	for r := range c.snap.AllRevisions() {
		x := asID(r.GetService())
		v := c.snap.Service(x)
		c.meta(fmt.Sprintf("revision %d of service %s", r.GetNumber(), x.Short()), r.GetMeta())
		c.need(v != nil, "revision %d is of service %s, which does not exist", r.GetNumber(), x.Short())
		c.need(v == nil || r.GetNumber() <= v.GetLastRevision(), "service %s has a revision %d and has made only %d",
			v.GetSpec().GetName(), r.GetNumber(), v.GetLastRevision())
		c.need(r.GetTemplate().GetContainer() != nil, "revision %d of service %s says nothing to run", r.GetNumber(), x.Short())
	}
}

func (c *checker) tasks() {
	last := c.snap.Index()
	for t := range c.snap.Tasks() {
		c.need(c.snap.Service(t.Service) != nil, "task %s is of service %s, which does not exist", t.ID.Short(), t.Service.Short())
		c.need(t.Terminal() || c.snap.Revision(t.Service, t.Revision) != nil, "task %s runs revision %d of service %s, which does not exist",
			t.ID.Short(), t.Revision, t.Service.Short())
		// The node of a task that was placed may have been removed since.
		c.need(t.CreatedIndex > 0 && t.CreatedIndex <= last && t.DecidedIndex <= last,
			"task %s was made by entry %d and decided by entry %d, and the state ends at %d", t.ID.Short(), t.CreatedIndex, t.DecidedIndex, last)
	}
}

// claims checks that each has an owner, and that the owner is what it claims.
func (c *checker) claims() {
	for cl := range c.snap.Claims() {
		owner := asID(cl.GetOwner())
		switch cl.GetKind() {
		case store.ClaimServiceName:
			v := c.snap.Service(owner)
			c.need(v != nil && v.GetSpec().GetName() == cl.GetKey(), "the name %q belongs to service %s, which does not bear it", cl.GetKey(), owner.Short())
		case store.ClaimNodeName:
			n := c.snap.Node(owner)
			c.need(n != nil && n.GetSpec().GetName() == cl.GetKey(), "the name %q belongs to node %s, which does not bear it", cl.GetKey(), owner.Short())
		case store.ClaimUserName:
			u := c.snap.User(owner)
			c.need(u != nil && u.GetName() == cl.GetKey(), "the name %q belongs to user %s, who does not bear it", cl.GetKey(), owner.Short())
		case store.ClaimEnrolmentKey:
			n := c.snap.Node(owner)
			c.need(n != nil && hex.EncodeToString(n.GetEnrolmentKey()) == cl.GetKey(), "an enrolment belongs to node %s, which did not enrol with it", owner.Short())
		default:
			c.need(c.snap.Service(owner) != nil || c.snap.Node(owner) != nil, "claim %s %q belongs to %s, which does not exist",
				cl.GetKind(), cl.GetKey(), owner.Short())
		}
	}
}

// held checks that owner has the claim on its own name.
func (c *checker) held(kind, key string, owner id.ID) {
	holder, ok := c.snap.Holder(kind, key)
	c.need(ok && holder == owner, "%s does not hold its name %q", owner.Short(), key)
}
