package adversary

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// A method is one that managers serve, with what is written beside it.
type method struct {
	protoreflect.MethodDescriptor
	policy *rpcv1.Policy
}

func (m method) path() string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

func (m method) for1(who rpcv1.Who) bool { return slices.Contains(m.policy.GetWho(), who) }

// methods are all there are: those of every service whose description is linked in.
func methods() iter.Seq[method] {
	return func(yield func(method) bool) {
		protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
			if !strings.HasPrefix(string(f.Package()), "skep.") {
				return true
			}
			for i := range f.Services().Len() {
				for j := range f.Services().Get(i).Methods().Len() {
					d := f.Services().Get(i).Methods().Get(j)
					p, _ := proto.GetExtension(d.Options(), rpcv1.E_Policy).(*rpcv1.Policy)
					if !yield(method{d, p}) {
						return false
					}
				}
			}
			return true
		})
	}
}

// call calls it with a message that says nothing and returns how it ended.
func (m method) call(ctx context.Context, cc *grpc.ClientConn) error {
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return cc.Invoke(ctx, m.path(), in, out)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, m.path())
	if err != nil {
		return err
	}
	_ = s.SendMsg(in) // a stream that is over says why when it is read
	return s.RecvMsg(out)
}

// callAll calls every method that which picks.
func callAll(t *testing.T, cc *grpc.ClientConn, which func(method) bool) iter.Seq2[string, error] {
	t.Helper()
	return func(yield func(string, error) bool) {
		called := 0
		for m := range methods() {
			if !which(m) {
				continue
			}
			called++
			if !yield(m.path(), m.call(within(t, soon), cc)) {
				return
			}
		}
		if called == 0 {
			t.Error("no method was called")
		}
	}
}

func denied(err error) bool { return errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) }

func everyone(m method) bool { return m.for1(rpcv1.Who_WHO_ANYONE) }

func isNot(f func(method) bool) func(method) bool { return func(m method) bool { return !f(m) } }

func isRaft(name string) bool { return strings.HasPrefix(name, "/skep.raft.v1.Raft/") }

// aWorkers are the methods of every node. Who adds one that a worker may call with
// success writes it here; all others refuse a worker, whatever their policy says.
var aWorkers = []string{
	cav1.Authority_Renew_FullMethodName,
	"/skep.dispatch.v1.Dispatch/Session",
	raftv1.Members_Leave_FullMethodName, // it is none, and so has left
}

// TestAWorkersCertificateOnEveryMethod, at every manager.
func TestAWorkersCertificateOnEveryMethod(t *testing.T) {
	s := attacked(t)
	worker, _ := s.enrolled(t)
	for _, m := range s.managers {
		cc := worker.conn(t, m)
		for name, err := range callAll(t, cc, func(m method) bool { return !everyone(m) && !slices.Contains(aWorkers, m.path()) }) {
			if !errdefs.IsPermissionDenied(err) {
				t.Errorf("a worker calls %s at %s: %v, want denied", name, m.name, err)
			}
		}
	}
}

// TestNoCertificateOnEveryMethod, at every manager.
func TestNoCertificateOnEveryMethod(t *testing.T) {
	s := attacked(t)
	for _, m := range s.managers {
		for name, err := range callAll(t, nobody("127.0.0.53").conn(t, m), isNot(everyone)) {
			if !errdefs.IsUnauthorized(err) {
				t.Errorf("nobody calls %s at %s: %v, want unauthenticated", name, m.name, err)
			}
		}
	}
}

// TestUsersOnEveryMethod: each role there is gets what is written beside the methods,
// from elsewhere, and nothing else.
func TestUsersOnEveryMethod(t *testing.T) {
	s := attacked(t)
	for n := range modelv1.UserRole_name {
		role := modelv1.UserRole(n)
		if role == modelv1.UserRole_USER_ROLE_UNSPECIFIED {
			continue
		}
		user, _ := s.user(t, "greedy-"+rpc.RoleName(role), role)
		may := func(m method) bool {
			return m.for1(rpcv1.Who_WHO_USER) && !m.policy.GetLocal() && rpc.Grants(role, m.policy.GetNeeds())
		}
		for _, m := range s.managers {
			cc := user.conn(t, m)
			for name, err := range callAll(t, cc, func(m method) bool { return !everyone(m) && !may(m) }) {
				if !errdefs.IsPermissionDenied(err) {
					t.Errorf("%v calls %s at %s: %v, want denied", role, name, m.name, err)
				}
			}
			for name, err := range callAll(t, cc, func(m method) bool { return may(m) && m.policy.GetRead() && !m.IsStreamingServer() }) {
				if denied(err) {
					t.Errorf("%v calls %s at %s: %v", role, name, m.name, err)
				}
			}
		}
	}
}

// TestAForwardedIdentityByWhoIsNoManager: managers carry calls for others, and say in
// a header for whom. Nobody else is believed.
func TestAForwardedIdentityByWhoIsNoManager(t *testing.T) {
	s := attacked(t)
	worker, joined := s.enrolled(t)
	user, _ := s.user(t, "carrier", modelv1.UserRole_USER_ROLE_OPERATOR)
	leader, followers := s.leader(t)
	manager := s.managers[0].nodeID(t)
	for who, passport := range map[string]map[string]any{
		"the root of a manager's host": {"kind": rpc.User, "user": "uid:0", "at": manager},
		"a manager":                    {"kind": rpc.Node, "node": manager, "cluster": s.id, "generation": 1, "key": make([]byte, 32), "cert_role": asManager},
		"another worker":               {"kind": rpc.Node, "node": s.worker.nodeID(t), "cluster": s.id, "generation": 1, "key": make([]byte, 32)},
		"himself":                      {"kind": rpc.Node, "node": joined.Credential.Identity.Node, "cluster": s.id, "generation": 1, "key": joined.Credential.Identity.KeySHA256[:]},
		"nobody":                       {"kind": rpc.Anyone, "address": "10.1.1.1:1"},
		"what is no caller":            {"kind": 7},
	} {
		text, err := json.Marshal(passport)
		if err != nil {
			t.Fatal(err)
		}
		for by, a := range map[string]attacker{"a worker": worker, "a user": user, "nobody": nobody("127.0.0.54")} {
			for _, m := range append(followers[:1:1], leader) {
				cc := a.conn(t, m)
				for _, headers := range []metadata.MD{
					metadata.Pairs("skep-forwarded", "1", "skep-caller-bin", string(text)),
					metadata.Pairs("skep-forwarded", "1", "skep-caller-bin", string(text), "skep-caller-bin", "{}"),
					metadata.Pairs("skep-forwarded", "1"),
				} {
					ctx := metadata.NewOutgoingContext(within(t, soon), headers)
					for _, err := range []error{
						second(controlv1.NewControlClient(cc).RotateJoinToken(ctx, &controlv1.RotateJoinTokenRequest{RequestId: requestID(), Role: asManager})),
						second(controlv1.NewControlClient(cc).GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asManager})),
						second(raftv1.NewMembersClient(cc).Leave(ctx, &raftv1.LeaveRequest{})),
						second(cav1.NewAuthorityClient(cc).Enroll(ctx, &cav1.EnrollRequest{})),
					} {
						if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "may not carry calls for others") {
							t.Errorf("%s speaks for %s at %s: %v, want that it may not", by, who, m.name, err)
						}
					}
				}
				// Without the word that it is carried, what is said of a caller says nothing.
				ctx := metadata.NewOutgoingContext(within(t, soon), metadata.Pairs("skep-caller-bin", string(text)))
				if err := second(controlv1.NewControlClient(cc).GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asManager})); !denied(err) {
					t.Errorf("%s names %s as the caller at %s: %v, want denied", by, who, m.name, err)
				}
			}
		}
	}
}

// TestAForgedAddress: where a machine asks from is what its connection says.
func TestAForgedAddress(t *testing.T) {
	s := attacked(t)
	text, _ := s.token(t, &controlv1.CreateTokenRequest{From: []string{"10.0.0.0/8"}})
	_, followers := s.leader(t)
	for _, header := range []string{"skep-caller-address", "x-forwarded-for", "forwarded", "x-real-ip"} {
		for _, m := range append(followers, s.managers[0]) {
			ctx := metadata.NewOutgoingContext(within(t, soon), metadata.Pairs(header, "10.1.1.1:4711"))
			_, err := cav1.NewAuthorityClient(nobody("127.0.0.56").conn(t, m)).Enroll(ctx, &cav1.EnrollRequest{Token: text, Csr: csrOf(t, newKey(t)), Hostname: "h"})
			if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "this one asks from 127.0.0.56") {
				t.Errorf("%s at %s: %v, want refused by the true address", header, m.name, err)
			}
		}
	}
}

// second returns the error of a call.
func second[T any](_ T, err error) error { return err }

// enroll asks for a first certificate.
func enroll(t *testing.T, cc *grpc.ClientConn, token string, csr []byte) (*cav1.EnrollResponse, error) {
	t.Helper()
	return cav1.NewAuthorityClient(cc).Enroll(within(t, soon), &cav1.EnrollRequest{Token: token, Csr: csr, Hostname: "attacker"})
}

// renew asks for the next one.
func renew(t *testing.T, cc *grpc.ClientConn, csr []byte) (*cav1.RenewResponse, error) {
	t.Helper()
	return cav1.NewAuthorityClient(cc).Renew(within(t, soon), &cav1.RenewRequest{Csr: csr})
}
