package events

import (
	"strconv"
	"time"

	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ForAdmins reports whether events of the type are told to admins only.
func ForAdmins(kind string) bool { return kind == TypeUser || kind == TypeToken }

func tokenEntry(x id.ID, t *modelv1.JoinToken) Entry {
	name := t.GetDescription()
	if name == "" {
		name = x.Short()
	}
	return Entry{Event: &controlv1.Event{Type: TypeToken, Id: x.Bytes(), Name: cut(name, maxAttribute)}}
}

// token tells what became of a join token, and never what its secret is. That one
// is forgotten long after its end is no event.
func (s *step) token(x id.ID, old, t *modelv1.JoinToken) {
	if t == nil {
		return
	}
	if old == nil {
		s.add(tokenEntry(x, t), "create", "", map[string]string{
			"role": word(t.GetRole().String(), "ROLE_"), "uses": strconv.FormatUint(uint64(t.GetUses()), 10),
			"expires": time.Unix(0, t.GetExpiresAt()).UTC().Format(time.RFC3339), "by": t.GetCreatedBy(),
		})
	}
	for i, u := range t.GetUsed() {
		if i >= len(old.GetUsed()) {
			s.add(tokenEntry(x, t), "use", "", useAttributes(u))
			continue
		}
		if was := old.GetUsed()[i].GetVerdict(); was != u.GetVerdict() {
			s.add(tokenEntry(x, t), verdicts[u.GetVerdict()], "", useAttributes(u))
		}
	}
	if old.GetEnd() != t.GetEnd() {
		s.add(tokenEntry(x, t), ends[t.GetEnd()], t.GetEndReason(), nil)
	}
}

var verdicts = map[modelv1.TokenVerdict]string{
	modelv1.TokenVerdict_TOKEN_VERDICT_UNSPECIFIED: "accept",
	modelv1.TokenVerdict_TOKEN_VERDICT_PENDING:     "use",
	modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED:    "reject",
	modelv1.TokenVerdict_TOKEN_VERDICT_LAPSED:      "lapse",
}

var ends = map[modelv1.TokenEnd]string{
	modelv1.TokenEnd_TOKEN_END_USED_UP: "used-up",
	modelv1.TokenEnd_TOKEN_END_EXPIRED: "expire",
	modelv1.TokenEnd_TOKEN_END_REVOKED: "revoke",
}

func useAttributes(u *modelv1.TokenUse) map[string]string {
	out := map[string]string{"hostname": u.GetHostname(), "address": u.GetFrom()}
	if x, err := id.FromBytes(u.GetNode()); err == nil {
		out["node"] = x.String()
	}
	if u.GetDecidedBy() != "" {
		out["by"] = u.GetDecidedBy()
	}
	return out
}
