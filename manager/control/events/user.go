package events

import (
	"time"

	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func userEntry(x id.ID, u *modelv1.User) Entry {
	return Entry{Event: &controlv1.Event{Type: TypeUser, Id: x.Bytes(), Name: u.GetName()}}
}

// user tells what became of a user. A next certificate is an update.
func (s *step) user(x id.ID, old, u *modelv1.User) {
	switch {
	case old == nil && u == nil: // made and removed at one index
	case old == nil:
		s.add(userEntry(x, u), "create", "", map[string]string{
			"role": userRole(u), "by": u.GetCreatedBy(), "expires": expires(u),
		})
	case u == nil:
		s.add(userEntry(x, old), "remove", "", map[string]string{"role": userRole(old)})
	default:
		attributes := make(map[string]string)
		turned(attributes, "role", userRole(old), userRole(u))
		turned(attributes, "ttl", time.Duration(old.GetTtl()).String(), time.Duration(u.GetTtl()).String())
		turned(attributes, "generation", decimal(old.GetCurrent().GetGeneration()), decimal(u.GetCurrent().GetGeneration()))
		turned(attributes, "expires", expires(old), expires(u))
		if len(attributes) > 0 {
			s.add(userEntry(x, u), "update", "", attributes)
		}
	}
}

func userRole(u *modelv1.User) string { return word(u.GetRole().String(), "USER_ROLE_") }

// expires is when the user's newest certificate ends; "" if there is none.
func expires(u *modelv1.User) string {
	if u.GetCurrent() == nil {
		return ""
	}
	return time.Unix(0, u.GetCurrent().GetNotAfter()).UTC().Format(time.RFC3339)
}
