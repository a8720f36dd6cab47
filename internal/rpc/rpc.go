// Package rpc is the one way in: every call to a daemon, over TLS or the unix
// socket, passes its chain of policy, caller, deadline, errors and forwarding.
//
// It knows who calls (the key of the certificate, or the uid of the process at
// the other end of the socket), reads beside the method who may (the policy in
// the .proto), asks the manager's Authorizer what the live record says, carries
// leaders' work to the leader, and speaks gRPC status codes for the whole tree.
// It does not know what any method does.
//
// Invariant: a method without a policy is never served, and no byte of a request
// body is read to learn who calls.
package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Kind is what sort of caller makes a call.
type Kind int

// The kinds of caller.
const (
	// Anyone showed no certificate.
	Anyone Kind = iota
	// Node proved the key of a certificate of this cluster.
	Node
	// User is a person or program: on some node's own socket, or anywhere with the
	// certificate of a user of this cluster.
	User
)

// A Caller is who makes a call.
type Caller struct {
	Kind Kind
	// Node is the caller's id; zero unless Kind is Node.
	Node id.ID
	// Identity is what the certificate proves; zero unless Kind is Node.
	Identity ca.Identity
	// Role is the one of the live record at the time of the call.
	Role modelv1.Role
	// User is the name of a user with a certificate, or "uid:0" and the like of one
	// on a socket; empty unless Kind is User.
	User string
	// Person is what a user's certificate proves; zero on a socket, whose users
	// are root or the daemon's own and may do everything.
	Person ca.UserIdentity
	// Rights is the role of a Person's live record at the time of the call.
	Rights modelv1.UserRole
	// Local is true on this node's own socket, and not for what was forwarded.
	Local bool
	// Via is the manager that forwarded the call; zero if none did.
	Via id.ID
	// At is the node whose socket a User is on; zero before it is in a cluster.
	At id.ID
	// Address is the host:port the caller was seen at; empty on the socket.
	Address string
	// Method is the full gRPC name of what is called.
	Method string
}

// Key names the caller where requests are deduplicated (R10) and in records:
// "node:<id>", "user:<name>", "user:uid:0" or "anyone"; no name of a user holds a
// colon. It does not say at which node a user called: who got no answer at one
// asks at another, by the same request.
func (c Caller) Key() string {
	switch c.Kind {
	case Node:
		return "node:" + c.Node.String()
	case User:
		return "user:" + c.User
	}
	return "anyone"
}

type callerKey struct{}

// FromContext returns who makes the call that ctx belongs to.
func FromContext(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// WithCaller returns ctx for a call made by c. Only the chain of this package
// and the tests of handlers have use for it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// A Proof is what a node has shown, for an Authorizer to judge.
type Proof struct {
	ca.Identity
	// Since is when the connection was made; a forwarded call's is unknown and
	// counts as of now.
	Since time.Time
	// Method is the full gRPC name, "/skep.ca.v1.Authority/Renew".
	Method string
	// Open asks about a stream that was let in before: the answer must not wait,
	// and being out of contact with the quorum does not end the stream (R18).
	Open bool
	// Stale is true if the caller takes answers that may be old.
	Stale bool
	// Expired is true if the certificate's time is over; see Grace.
	Expired bool
}

// An Authorizer says by the live record what a node or a user may do (D7). Errors of kind
// PermissionDenied and Unauthenticated end open streams; others do not.
type Authorizer interface {
	// Node returns the role of a node whose certificate is current.
	Node(ctx context.Context, p Proof) (modelv1.Role, error)
	// Member returns nil if the node belongs to the latest raft membership and
	// its certificate is not older than the one known (R14's exception).
	Member(ctx context.Context, p Proof) error
	// User returns the role of a user whose certificate is current.
	User(ctx context.Context, p UserProof) (modelv1.UserRole, error)
}

const (
	mdStale     = "skep-stale"
	mdForwarded = "skep-forwarded"
	mdCaller    = "skep-caller-bin"
	mdAddress   = "skep-caller-address"
	mdFresh     = "skep-freshness"
)

// Stale returns ctx for calls whose answers may be old: they are answered by
// the manager asked from what it has, without a quorum, for at most five minutes
// after it last heard of one (R18).
func Stale(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, mdStale, "1")
}

// StaleAsked reports whether the caller of a served call takes an old answer.
func StaleAsked(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, mdStale)) > 0
}

// Freshness says how old an answer may be.
type Freshness struct {
	// Stale is true if no quorum was asked.
	Stale bool
	// Applied is the index of the last entry this manager applied.
	Applied uint64
	// InContact is R18's.
	InContact bool
	// Silence is how long ago the manager was last in contact; 0 if it is.
	Silence time.Duration
}

func (f Freshness) header() metadata.MD {
	return metadata.Pairs(mdFresh, fmt.Sprintf("%t %d %t %d", f.Stale, f.Applied, f.InContact, int64(f.Silence)))
}

// FreshnessOf reads what a reading call's response header says of its answer.
// ok is false if it says nothing.
func FreshnessOf(header metadata.MD) (f Freshness, ok bool) {
	v := header.Get(mdFresh)
	if len(v) != 1 {
		return Freshness{}, false
	}
	n, err := fmt.Sscanf(v[0], "%t %d %t %d", &f.Stale, &f.Applied, &f.InContact, &f.Silence)
	return f, err == nil && n == 4
}
