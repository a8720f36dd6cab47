package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// rights is what each role of a user gives: of all that is written beside the
// methods, what its holder is entitled to.
var rights = map[modelv1.UserRole][]rpcv1.Need{
	modelv1.UserRole_USER_ROLE_VIEWER:   {rpcv1.Need_NEED_BELONG, rpcv1.Need_NEED_VIEW},
	modelv1.UserRole_USER_ROLE_OPERATOR: {rpcv1.Need_NEED_BELONG, rpcv1.Need_NEED_VIEW, rpcv1.Need_NEED_OPERATE},
	modelv1.UserRole_USER_ROLE_ROTATOR:  {rpcv1.Need_NEED_BELONG, rpcv1.Need_NEED_ROTATE},
	modelv1.UserRole_USER_ROLE_ADMIN: {
		rpcv1.Need_NEED_BELONG, rpcv1.Need_NEED_VIEW, rpcv1.Need_NEED_OPERATE, rpcv1.Need_NEED_ROTATE, rpcv1.Need_NEED_ADMIN,
	},
}

// Grants reports whether a role gives what a method needs. A role that is in no
// table gives nothing, and a need that is none is never given.
func Grants(role modelv1.UserRole, need rpcv1.Need) bool { return slices.Contains(rights[role], need) }

// IsRole reports whether there is such a role.
func IsRole(role modelv1.UserRole) bool { return rights[role] != nil }

// Roles returns the roles there are, those that give least first.
func Roles() []modelv1.UserRole {
	return slices.SortedFunc(maps.Keys(rights), func(a, b modelv1.UserRole) int {
		return cmp.Or(cmp.Compare(len(rights[a]), len(rights[b])), cmp.Compare(a, b))
	})
}

// RoleName is a role as people type it: "viewer".
func RoleName(role modelv1.UserRole) string {
	return strings.ToLower(strings.TrimPrefix(role.String(), "USER_ROLE_"))
}

// A UserProof is what a user has shown, for an Authorizer to judge.
type UserProof struct {
	ca.UserIdentity
	// Since, Method, Open and Stale are as a Proof's.
	Since  time.Time
	Method string
	Open   bool
	Stale  bool
	// Expired is true if the certificate's time is over: it is good for nothing.
	Expired bool
}

func (c *call) newUserProof(since time.Time, stale bool) UserProof {
	return UserProof{
		UserIdentity: c.caller.Person, Since: since, Method: c.method.name, Stale: stale,
		Expired: time.Now().After(c.caller.Person.NotAfter),
	}
}

// authoriseUser judges a user by his certificate, his record and what his role
// gives (D7).
func (s *Server) authoriseUser(ctx context.Context, c *call) error {
	judge, m := c.office.authorizer, c.method
	switch {
	case m.policy.GetLocal():
		return Refuse(Errorf(errdefs.ErrPermissionDenied, "to %s is done at the node's own socket only", m.policy.GetDeed()),
			"run the command on the node itself, as root")
	case judge == nil:
		return s.notManager()
	case c.user.Expired:
		return userExpired(c.user, s.self())
	}
	role, err := judge.User(ctx, c.user)
	if err != nil {
		return err
	}
	c.caller.Rights = role
	if !Grants(role, m.policy.GetNeeds()) {
		return tooSmall(c.caller.User, role, m.policy)
	}
	return nil
}

// tooSmall refuses what a user's role does not give, in the words of commands. A
// role is not changed: an admin makes a user who has another.
func tooSmall(user string, role modelv1.UserRole, p *rpcv1.Policy) error {
	least, has := leastRole(p.GetNeeds()), "has no role"
	if IsRole(role) {
		has = "is " + withArticle(RoleName(role))
	}
	return Refuse(Errorf(errdefs.ErrPermissionDenied, "to %s takes the role %s, and user %s %s", p.GetDeed(), least, user, has),
		fmt.Sprintf("ask an admin for a user who has it: ctl user create NAME --role %s -o FILE", least))
}

// leastRole names the role that gives what is needed and the least besides.
func leastRole(need rpcv1.Need) string {
	for _, role := range Roles() {
		if Grants(role, need) {
			return RoleName(role)
		}
	}
	return "of nobody" // no such need is written beside a method
}

func withArticle(word string) string {
	if strings.ContainsAny(word[:1], "aeiou") {
		return "an " + word
	}
	return "a " + word
}

func userExpired(p UserProof, manager id.ID) error {
	return RefuseTime(Errorf(errdefs.ErrUnauthenticated, "certificate of user %s expired at %s", p.Name, p.NotAfter.UTC().Format(time.RFC3339)),
		fmt.Sprintf("have an admin make another: ctl user renew %s -o FILE", p.Name), manager, time.Now())
}

// verifyUser checks a user's chain against the roots the holder holds now.
func verifyUser(h *ca.Holder, state tls.ConnectionState) (ca.UserIdentity, error) {
	c := h.Get()
	if c == nil {
		return ca.UserIdentity{}, errors.New("this node is in no cluster and trusts no roots")
	}
	who, err := c.Roots.VerifyUser(state.PeerCertificates, time.Now())
	if err != nil && !errors.Is(err, ca.ErrClock) {
		return ca.UserIdentity{}, err
	}
	if who.Cluster != c.Identity.Cluster {
		return ca.UserIdentity{}, fmt.Errorf("user %s is of cluster %s, this one is %s", who.Name, who.Cluster, c.Identity.Cluster)
	}
	return who, nil
}

// inGrace reports whether a certificate is wrong in nothing but that it ended,
// and not longer ago than grace. It is let in to be told so.
func inGrace(err error, now, notAfter time.Time, grace time.Duration) bool {
	return errors.Is(err, ca.ErrClock) && now.After(notAfter) && now.Sub(notAfter) <= grace
}

// UserTLS returns the configuration of a user who dials the manager want, as
// ClientTLS is that of a node.
func UserTLS(u *ca.UserCredential, want Peer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// Names of hosts prove nothing here: VerifyConnection does the whole work.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return u.TLS(), nil },
		VerifyConnection: func(state tls.ConnectionState) error {
			now := time.Now()
			who, err := u.Roots.Verify(state.PeerCertificates, now)
			if err != nil && !early(err, now, who.NotBefore) {
				return err
			}
			if who.Cluster != u.Identity.Cluster {
				return fmt.Errorf("node %s is of cluster %s, user %s is of %s", who.Node, who.Cluster, u.Identity.Name, u.Identity.Cluster)
			}
			return want.check(who)
		},
	}
}

// told records what a user who is not on this host changed or was refused.
func (s *Server) told(c *call, err error) {
	if c.caller.Person.IsZero() {
		return
	}
	attrs := []any{slog.String("user", c.caller.Key()), slog.String("method", path.Base(c.method.name)), slog.String("addr", c.caller.Address)}
	if !c.caller.Via.IsZero() {
		attrs = append(attrs, slog.String("via", c.caller.Via.String()))
	}
	if err != nil {
		s.cfg.Log.Info("change by a user refused", append(attrs, slog.Any("err", err))...)
		return
	}
	s.cfg.Log.Info("change by a user", attrs...)
}
