package store

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// became says what the object of a change is called, or was, and in words what the
// change made of it, in what matters to an auditor: old is the state before the
// entry, now the one after. It never quotes a secret, and of what people wrote only
// what an object is called by.
func became(old, now *Snapshot, c Change) (name, words string) {
	x := c.ID()
	var w turns
	switch c.Kind {
	case KindCluster:
		w.cluster(old.Cluster(), now.Cluster())
	case KindNode:
		a, b := old.Node(x), now.Node(x)
		w.node(a, b)
		name = cmp.Or(b.GetSpec().GetName(), b.GetDescription().GetHostname(), a.GetSpec().GetName(), a.GetDescription().GetHostname())
	case KindService:
		a, b := old.Service(x), now.Service(x)
		w.service(a, b)
		name = cmp.Or(b.GetSpec().GetName(), a.GetSpec().GetName())
	case KindUser:
		a, b := old.User(x), now.User(x)
		w.user(a, b)
		name = cmp.Or(b.GetName(), a.GetName())
	case KindToken:
		w.token(old.Token(x), now.Token(x))
	case KindMember:
		if raftID, ok := ParseMemberKey(c.Key); ok {
			w.member(old.Member(raftID), now.Member(raftID))
		}
	}
	return name, strings.Join(w, ", ")
}

// turns are what became of one object.
type turns []string

// of adds words if they hold.
func (w *turns) of(holds bool, format string, args ...any) {
	switch {
	case holds && len(args) > 0:
		*w = append(*w, fmt.Sprintf(format, args...))
	case holds:
		*w = append(*w, format)
	}
}

// life says that an object was made or removed, and reports whether it was removed.
func (w *turns) life(was, is bool) (gone bool) {
	w.of(!was && is, "made")
	w.of(!is, "removed")
	return !is
}

func (w *turns) cluster(a, b *modelv1.Cluster) {
	old, spec := a.GetSpec(), b.GetSpec()
	w.life(a != nil, b != nil)
	w.of(old.GetAutolock() != spec.GetAutolock(), "autolock %s", onOff(spec.GetAutolock()))
	w.of(old.GetNoStandingTokens() != spec.GetNoStandingTokens(), "standing tokens %s", onOff(!spec.GetNoStandingTokens()))
	if a == nil {
		return
	}
	w.of(len(b.GetCondemnation().GetNodes()) > len(a.GetCondemnation().GetNodes()), "managers that may be compromised: %s", condemned(b.GetCondemnation()))
	w.of(a.GetCondemnation() != nil && b.GetCondemnation() == nil, "nothing that managers knew which may be compromised counts any more")
	w.standing("worker", a.GetWorkerToken(), b.GetWorkerToken())
	w.standing("manager", a.GetManagerToken(), b.GetManagerToken())
	w.of(a.GetUnlockNumber() != b.GetUnlockNumber() && len(b.GetUnlockKey()) > 0, "unlock key %d", b.GetUnlockNumber())
	w.of(!bytes.Equal(a.GetRoot().GetKey(), b.GetRoot().GetKey()), "another root key")
	w.of(!sameExternal(a.GetRoot().GetExternal(), b.GetRoot().GetExternal()), "the root signs at %s", places(b.GetRoot().GetExternal()))
	w.of(a.GetDataKey().GetActive() != b.GetDataKey().GetActive(), "data key %d", b.GetDataKey().GetActive())
}

// condemned names the nodes of a condemnation.
func condemned(c *modelv1.Condemnation) string {
	var names []string
	for _, n := range c.GetNodes() {
		names = append(names, n.GetName())
	}
	return strings.Join(names, " ")
}

// standing says what became of a standing token.
func (w *turns) standing(role string, a, b []byte) {
	w.of(!bytes.Equal(a, b) && len(b) > 0, "another %s token", role)
	w.of(!bytes.Equal(a, b) && len(b) == 0, "no %s token", role)
}

func sameExternal(a, b []*modelv1.ExternalCA) bool {
	return slices.EqualFunc(a, b, func(a, b *modelv1.ExternalCA) bool { return proto.Equal(a, b) })
}

// places are where external CAs are.
func places(cas []*modelv1.ExternalCA) string {
	if len(cas) == 0 {
		return "the managers"
	}
	var out []string
	for _, at := range cas {
		out = append(out, at.GetUrl())
	}
	return strings.Join(out, ", ")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (w *turns) node(a, b *modelv1.Node) {
	if w.life(a != nil, b != nil) {
		return
	}
	w.of(a.GetMembership() != b.GetMembership(), "%s", word(b.GetMembership().String(), "MEMBERSHIP_"))
	w.of(a.GetSpec().GetRole() != b.GetSpec().GetRole(), "to be %s", word(b.GetSpec().GetRole().String(), "ROLE_"))
	w.of(a != nil && a.GetRole() != b.GetRole(), "is %s", word(b.GetRole().String(), "ROLE_"))
	w.of(a != nil && a.GetSpec().GetAvailability() != b.GetSpec().GetAvailability(), "%s", word(b.GetSpec().GetAvailability().String(), "AVAILABILITY_"))
	w.certificate(a.GetCurrent(), b.GetCurrent())
}

func (w *turns) certificate(a, b *modelv1.Certificate) {
	w.of(b != nil && !bytes.Equal(a.GetSerial(), b.GetSerial()), "certificate %x, generation %d", b.GetSerial(), b.GetGeneration())
}

func (w *turns) service(a, b *modelv1.Service) {
	if w.life(a != nil, b != nil) {
		return
	}
	// Services are what there may be thousands of in a second: nothing is formatted
	// that is not said.
	if n := b.GetSpec().GetReplicated().GetReplicas(); n != a.GetSpec().GetReplicated().GetReplicas() {
		w.of(true, "%d replicas", n)
	}
	if n := b.GetTarget(); n != a.GetTarget() {
		w.of(true, "revision %d", n)
	}
}

func (w *turns) user(a, b *modelv1.User) {
	if w.life(a != nil, b != nil) {
		return
	}
	w.of(a.GetRole() != b.GetRole(), "%s", word(b.GetRole().String(), "USER_ROLE_"))
	w.certificate(a.GetCurrent(), b.GetCurrent())
}

func (w *turns) token(a, b *modelv1.JoinToken) {
	if w.life(a != nil, b != nil) {
		return
	}
	w.of(a == nil, "for a %s", word(b.GetRole().String(), "ROLE_"))
	w.of(a != nil && len(a.GetUsed()) != len(b.GetUsed()), "used %d of %d times", len(b.GetUsed()), b.GetUses())
	w.of(a.GetEnd() != b.GetEnd(), "%s", word(b.GetEnd().String(), "TOKEN_END_"))
}

func (w *turns) member(a, b *modelv1.Member) {
	if w.life(a != nil, b != nil) {
		return
	}
	w.of(a == nil && !b.GetVoter(), "learner")
	w.of(a.GetVoter() != b.GetVoter() && b.GetVoter(), "voter")
	w.of(a != nil && a.GetAddress() != b.GetAddress(), "at %s", b.GetAddress())
}

// word is an enum's value as people read it.
func word(value, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value, prefix)), "_", " ")
}
