package rpc

import (
	"cmp"
	"path"
	"slices"

	"google.golang.org/grpc"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// A Deed is what users may do by one method, as the policy beside it says.
type Deed struct {
	// Words are the policy's: "see the root".
	Words string
	// Method is the name alone: "GetRoot".
	Method string
	// Roles are those that give it, the ones that give least first.
	Roles []modelv1.UserRole
	// Limit says what of it the roles that do not give everything do not give: the
	// method looks at the request and at the role. Empty: nothing is kept back.
	Limit string
}

// limits are what a method keeps from who has the need that it names, and is no
// admin. The methods themselves hold to it (manager/control).
var limits = map[string]string{
	"RotateJoinToken": "the token is shown to admins only",
	"RotateRoot": "only to a root that the swarm makes, with the certificates' life as it is and an hour or more to follow; " +
		"a rotation that is under way is joined as it is",
	"GetRoot":     "the names of users are shown to admins only",
	"WatchRoot":   "the names of users are shown to admins only",
	"WatchEvents": "events of users and join tokens are told to admins only",
}

// Deeds returns what users may do by the methods of a service from elsewhere, by
// their words.
func Deeds(desc *grpc.ServiceDesc) ([]Deed, error) {
	methods, err := policies(desc)
	if err != nil {
		return nil, err
	}
	var out []Deed
	for name, m := range methods {
		if !m.allows(rpcv1.Who_WHO_USER) || m.policy.GetLocal() {
			continue
		}
		d := Deed{Words: m.policy.GetDeed(), Method: path.Base(name), Limit: limits[path.Base(name)]}
		for _, role := range Roles() {
			if Grants(role, m.policy.GetNeeds()) {
				d.Roles = append(d.Roles, role)
			}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Deed) int { return cmp.Or(cmp.Compare(a.Words, b.Words), cmp.Compare(a.Method, b.Method)) })
	return out, nil
}

// For reports whether a role gives it.
func (d Deed) For(role modelv1.UserRole) bool { return slices.Contains(d.Roles, role) }
