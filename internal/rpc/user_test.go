package rpc

import (
	"context"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

const (
	viewer   = modelv1.UserRole_USER_ROLE_VIEWER
	operator = modelv1.UserRole_USER_ROLE_OPERATOR
	rotator  = modelv1.UserRole_USER_ROLE_ROTATOR
	admin    = modelv1.UserRole_USER_ROLE_ADMIN
)

// Who may call what is in allowed.
var (
	anybody   = []modelv1.UserRole{viewer, rotator, operator, admin}
	lookers   = []modelv1.UserRole{viewer, operator, admin}
	operators = []modelv1.UserRole{operator, admin}
	rotators  = []modelv1.UserRole{rotator, admin}
	admins    = []modelv1.UserRole{admin}
)

// allowed is what people may call from elsewhere, and the roles that let them.
// Whoever adds a method of people's writes it here too.
var allowed = map[string][]modelv1.UserRole{
	"Control/RenewUser": anybody, "Control/ListManagers": anybody, "Control/GetRoot": anybody, "Control/WatchRoot": anybody,

	"Control/GetCluster": lookers, "Control/ListNodes": lookers, "Control/GetNode": lookers,
	"Control/ListServices": lookers, "Control/GetService": lookers, "Control/ListTasks": lookers,
	"Control/WatchService": lookers, "Control/WatchEvents": lookers,

	"Control/CreateService": operators, "Control/UpdateService": operators, "Control/RemoveService": operators,

	"Control/RotateJoinToken": rotators, "Control/GetUnlockKey": rotators, "Control/RotateUnlockKey": rotators, "Control/RotateRoot": rotators,

	"Control/UpdateCluster": admins, "Control/GetJoinToken": admins,
	"Control/UpdateNode": admins, "Control/RemoveNode": admins, "Control/CondemnNode": admins,
	"Control/CreateUser": admins, "Control/ListUsers": admins, "Control/GetUser": admins, "Control/RemoveUser": admins, "Control/ReissueUser": admins,
	"Control/CreateToken": admins, "Control/ListTokens": admins, "Control/GetToken": admins, "Control/RevokeToken": admins,
	"Control/AcceptNode": admins, "Control/RejectNode": admins,
	"Control/ReadAudit": admins, "Control/AbortRootRotation": admins,
}

// everyone is what needs no certificate at all.
var everyone = []string{"Authority/Enroll", "Raft/Ping"}

// records is an Authorizer of one user; no node is known.
type records struct {
	role  modelv1.UserRole
	err   error
	asked []UserProof
}

func (*records) Node(context.Context, Proof) (modelv1.Role, error) {
	return 0, Errorf(errdefs.ErrPermissionDenied, "no node")
}

func (*records) Member(context.Context, Proof) error {
	return Errorf(errdefs.ErrPermissionDenied, "no member")
}

func (r *records) User(_ context.Context, p UserProof) (modelv1.UserRole, error) {
	r.asked = append(r.asked, p)
	return r.role, r.err
}

// person calls a method as a user with a certificate.
func person(s *Server, r *records, m *method, notAfter time.Time) (*call, error) {
	who := ca.UserIdentity{Cluster: id.New(), User: id.New(), Name: "alice", Generation: 1, NotAfter: notAfter}
	c := &call{method: m, office: &office{authorizer: r}, caller: Caller{Kind: User, User: "alice", Person: who}}
	c.user = c.newUserProof(time.Now(), false)
	_, err := s.authorise(context.Background(), c)
	return c, err
}

func everyMethod(t *testing.T) map[string]*method {
	t.Helper()
	all := map[string]*method{}
	for _, desc := range []*grpc.ServiceDesc{
		&cav1.Authority_ServiceDesc, &controlv1.Control_ServiceDesc, &dispatchv1.Dispatch_ServiceDesc,
		&localv1.Local_ServiceDesc, &raftv1.Raft_ServiceDesc, &raftv1.Members_ServiceDesc,
	} {
		methods, err := policies(desc)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, methods)
	}
	return all
}

func TestEachRoleMayCallWhatIsWrittenAndNothingElse(t *testing.T) {
	t.Parallel()
	s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	all := everyMethod(t)
	for role := range modelv1.UserRole_name {
		role := modelv1.UserRole(role)
		for name, m := range all {
			short := path.Base(path.Dir(name))
			short = short[strings.LastIndex(short, ".")+1:] + "/" + path.Base(name)
			roles, listed := allowed[short]
			want := slices.Contains(roles, role) || slices.Contains(everyone, short)
			_, err := person(s, &records{role: role}, m, time.Now().Add(time.Hour))
			if err != nil && listed && strings.Contains(err.Error(), path.Base(name)) {
				t.Errorf("%v is refused with the name of a method: %v", role, err)
			}
			if (err == nil) != want || err != nil && !errdefs.IsPermissionDenied(err) {
				t.Errorf("%v calls %s: %v, want allowed %v", role, short, err, want)
			}
		}
	}
	for name := range allowed {
		if all["/skep.control.v1."+name] == nil {
			t.Errorf("%s is no method any more", name)
		}
	}
}

func TestARefusalNamesUserRoleAndWayOut(t *testing.T) {
	t.Parallel()
	s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	all := everyMethod(t)
	token := all[controlv1.Control_GetJoinToken_FullMethodName]
	later := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		name        string
		records     *records
		method      *method
		notAfter    time.Time
		words, hint string
		kind        func(error) bool
	}{
		{"a role too small", &records{role: operator}, token, later, "to see a join token takes the role admin, and user alice is an operator", "ask an admin for a user who has it: ctl user create NAME --role admin -o FILE", errdefs.IsPermissionDenied},
		{"no role at all", &records{}, all[controlv1.Control_UpdateService_FullMethodName], later, "to change a service takes the role operator, and user alice has no role",
			"ctl user create NAME --role operator -o FILE", errdefs.IsPermissionDenied},
		{"what a job does not do", &records{role: rotator}, all[controlv1.Control_ListServices_FullMethodName], later, "to list the services takes the role viewer, and user alice is a rotator", "--role viewer", errdefs.IsPermissionDenied},
		{"what is for jobs", &records{role: operator}, all[controlv1.Control_RotateRoot_FullMethodName], later, "to rotate the root takes the role rotator", "--role rotator", errdefs.IsPermissionDenied},
		{"an end in the past", &records{role: admin}, token, time.Now().Add(-time.Minute), "certificate of user alice expired at ", "ctl user renew alice", errdefs.IsUnauthorized},
		{"what is a host's own", &records{role: admin}, all[localv1.Local_Leave_FullMethodName], later, "to leave a swarm is done at the node's own socket only", "on the node itself", errdefs.IsPermissionDenied},
		{"what is for nodes", &records{role: admin}, all[dispatchv1.Dispatch_Session_FullMethodName], later, "not for user:alice", "", errdefs.IsPermissionDenied},
		{"a record that is gone", &records{err: Errorf(errdefs.ErrPermissionDenied, "user alice was removed")}, token, later, "was removed", "", errdefs.IsPermissionDenied},
	} {
		_, err := person(s, tt.records, tt.method, tt.notAfter)
		if err == nil || !strings.Contains(err.Error(), tt.words) || !strings.Contains(HintOf(err), tt.hint) || !tt.kind(err) {
			t.Errorf("%s: %v, hint %q", tt.name, err, HintOf(err))
		}
	}
	r := &records{role: viewer}
	c, err := person(s, r, all[controlv1.Control_ListNodes_FullMethodName], later)
	if err != nil || c.caller.Rights != viewer || len(r.asked) != 1 || r.asked[0].Name != "alice" {
		t.Errorf("a viewer who looks: %v, %+v, asked %v", err, c.caller, r.asked)
	}
}

func TestAPolicyWithoutNeedsOrWordsForUsersIsNotServed(t *testing.T) {
	t.Parallel()
	user, node := []rpcv1.Who{rpcv1.Who_WHO_USER}, []rpcv1.Who{rpcv1.Who_WHO_NODE}
	for _, tt := range []struct {
		policy *rpcv1.Policy
		ok     bool
	}{
		{&rpcv1.Policy{Who: user, Deed: "look"}, false},
		{&rpcv1.Policy{Who: user, Needs: rpcv1.Need_NEED_VIEW}, false},
		{&rpcv1.Policy{Who: user, Needs: rpcv1.Need_NEED_VIEW, Deed: "look"}, true},
		{&rpcv1.Policy{Who: node}, true},
		{&rpcv1.Policy{Who: node, Needs: rpcv1.Need_NEED_VIEW}, false},
		{&rpcv1.Policy{Who: node, Deed: "look"}, false},
	} {
		if err := (&method{name: "/x/Y", policy: tt.policy}).check(); (err == nil) != tt.ok {
			t.Errorf("%v: %v, want ok %v", tt.policy, err, tt.ok)
		}
	}
}

func TestAPersonIsCarriedToTheLeaderWhole(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	who := ca.UserIdentity{Cluster: id.New(), User: id.New(), Name: "alice", Generation: 3, KeySHA256: ca.Digest{1, 2},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	c := &call{method: &method{name: "/x/Y"}, caller: Caller{Kind: User, User: "alice", Person: who, Address: "192.0.2.7:1"}}
	c.user = c.newUserProof(now, false)
	signed, err := (&Server{}).sign(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	md, _ := metadata.FromOutgoingContext(signed)
	got, since, err := readPassport(md.Get(mdCaller)[0])
	if err != nil || got.Person != who || got.Key() != "user:alice" || !since.Equal(now) || got.Local {
		t.Errorf("arrived as %+v since %v, %v; want %+v", got, since, err, who)
	}
}
