package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca/authority"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// invited returns the token that e shows, or why it does not let e in. A standing
// one has no id.
func invited(tx *store.Tx, e authority.Enrolment) (*modelv1.JoinToken, error) {
	if e.Role != 0 {
		return &modelv1.JoinToken{Role: e.Role}, nil
	}
	t, err := lookUp(tx, e.Invitation)
	if err != nil {
		return nil, err
	}
	if err := turnedAway(t, e.Key.SHA256[:]); err != nil {
		return nil, authority.RefuseToken(err)
	}
	g := guest{hostname: e.Hostname, address: e.Address, now: tx.Base().Now()}
	if err := g.mayUse(t, tx.Cluster().GetHistory()); err != nil {
		return nil, authority.RefuseToken(err)
	}
	return t, nil
}

// lookUp finds the token that somebody shows. It is found by the hash of its
// secret: how far a guess is from another hash tells nothing about a secret.
func lookUp(tx *store.Tx, i authority.Invitation) (*modelv1.JoinToken, error) {
	t := tx.TokenByHash(i.Hash)
	// A root that was pinned when the token was made is this cluster's, even if the
	// cluster has another one by now.
	if t == nil || !i.Pinned && !bytes.Equal(t.GetRoot(), i.Pin[:]) {
		return nil, authority.UnknownToken(i.Pinned)
	}
	return t, nil
}

// turnedAway says why a key that used t already is not let in with it again.
func turnedAway(t *modelv1.JoinToken, key []byte) error {
	for _, u := range t.GetUsed() {
		if !bytes.Equal(u.GetKey(), key) {
			continue
		}
		switch u.GetVerdict() {
		case modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED:
			return errors.New("an operator rejected this node")
		case modelv1.TokenVerdict_TOKEN_VERDICT_LAPSED:
			return fmt.Errorf("nobody accepted this node within %v", PendingFor)
		}
		return errors.New("the node it let in with this key was removed")
	}
	return nil
}

// A guest is who shows a token.
type guest struct {
	hostname string
	// address is the host it asks from.
	address string
	now     time.Time
}

// mayUse returns nil if t lets g in, in a cluster of this history; else what keeps
// it out.
func (g guest) mayUse(t *modelv1.JoinToken, history []byte) error {
	expires := time.Unix(0, t.GetExpiresAt())
	switch {
	case t.GetEnd() == modelv1.TokenEnd_TOKEN_END_REVOKED:
		return errors.New("it was revoked")
	case len(t.GetUsed()) >= int(t.GetUses()):
		return fmt.Errorf("it was used already, as often as it may be (%d)", t.GetUses())
	case t.GetEnd() != 0 || !g.now.Before(expires):
		return fmt.Errorf("it expired at %s", expires.UTC().Format(time.RFC3339))
	case !bytes.Equal(t.GetHistory(), history):
		return errors.New("the swarm was restored or founded anew since it was made, and nobody knows how often it was used")
	}
	if ok, err := path.Match(t.GetName(), g.hostname); t.GetName() != "" && (!ok || err != nil) {
		return fmt.Errorf("it is for hosts named %q, and this one is called %q", t.GetName(), g.hostname)
	}
	if !comesFrom(g.address, t.GetFrom()) {
		return fmt.Errorf("it is for hosts in %s, and this one asks from %s", strings.Join(t.GetFrom(), ", "), g.address)
	}
	return nil
}

// comesFrom reports whether an address is in one of the networks, or there are
// none. An address that cannot be read is in no network.
func comesFrom(address string, networks []string) bool {
	if len(networks) == 0 {
		return true
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil && p.Contains(a.Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// useOf is what a token notes of a node that it lets in.
func useOf(n *modelv1.Node, e authority.Enrolment, at time.Time) *modelv1.TokenUse {
	u := &modelv1.TokenUse{Node: n.GetId(), Hostname: e.Hostname, From: e.Address, At: at.UnixNano(), Key: e.Key.SHA256[:]}
	if n.GetMembership() == pending {
		u.Verdict = modelv1.TokenVerdict_TOKEN_VERDICT_PENDING
	}
	return u
}

// spend notes one use of t. Whoever did so from the same version loses to the
// first of them and looks again.
func spend(tx *store.Tx, t *modelv1.JoinToken, u *modelv1.TokenUse) error {
	t = proto.CloneOf(t)
	t.Used = append(t.Used, u)
	if len(t.GetUsed()) == int(t.GetUses()) {
		t.End, t.EndedAt = modelv1.TokenEnd_TOKEN_END_USED_UP, u.GetAt()
	}
	return tx.PutToken(t)
}

// vouch returns nil if the token that r shows lets a node come back that an older
// state knows: it could be another node with that token alone.
func vouch(tx *store.Tx, n *modelv1.Node, r authority.Renewal) error {
	if r.Invitation.Role != 0 {
		return nil
	}
	t, err := lookUp(tx, *r.Invitation)
	if err != nil {
		return err
	}
	if t.GetApprove() {
		return authority.RefuseToken(errors.New("a node that comes back cannot wait to be accepted: take a token that asks for no approval"))
	}
	g := guest{hostname: n.GetDescription().GetHostname(), address: r.Address, now: tx.Base().Now()}
	if err := g.mayUse(t, tx.Cluster().GetHistory()); err != nil {
		return authority.RefuseToken(err)
	}
	return spend(tx, t, &modelv1.TokenUse{
		Node: n.GetId(), Hostname: g.hostname, From: r.Address, At: g.now.UnixNano(), Key: r.Key.SHA256[:],
	})
}
