package store

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// The kinds of objects.
const (
	KindCluster  = logv1.Kind_KIND_CLUSTER
	KindNode     = logv1.Kind_KIND_NODE
	KindMember   = logv1.Kind_KIND_MEMBER
	KindService  = logv1.Kind_KIND_SERVICE
	KindRevision = logv1.Kind_KIND_REVISION
	KindTask     = logv1.Kind_KIND_TASK
	KindClaim    = logv1.Kind_KIND_CLAIM
	KindUser     = logv1.Kind_KIND_USER
	KindToken    = logv1.Kind_KIND_TOKEN
	// KindNote is the kind of a Change that tells of a Note.
	KindNote = logv1.Kind_KIND_NOTE
	// KindAudit is the kind of a Change that tells that the audit trail has grown.
	KindAudit = logv1.Kind_KIND_AUDIT
)

// The kinds of claims (R9). A claim says who owns a name or a number of which
// there is one, and is released when its owner is deleted.
const (
	// ClaimServiceName is the name of a service; its owner is the service.
	ClaimServiceName = "service-name"
	// ClaimNodeName is the operator's name for a node; its owner is the node.
	ClaimNodeName = "node-name"
	// ClaimEnrolmentKey is the hex SHA-256 of the key a node enrolled with; its
	// owner is the node.
	ClaimEnrolmentKey = "enrolment-key"
	// ClaimUserName is the name of a user; its owner is the user.
	ClaimUserName = "user-name"

	inUseSuffix = "-in-use"
)

// InUse returns the kind of the claims that say an object of kind is in use. Such
// a claim has the key "<id>/<anything>", made by InUseKey, and the user as its
// owner; while one exists, apply refuses to delete the object.
func InUse(kind logv1.Kind) string { return kindName(kind) + inUseSuffix }

// InUseKey returns the key of the claim by which user holds the object used.
func InUseKey(used, user id.ID) string { return used.String() + "/" + user.String() }

// MemberKey returns the key of a member in Expect, Delete and Change.
func MemberKey(raftID uint64) []byte { return binary.BigEndian.AppendUint64(nil, raftID) }

// RevisionKey returns the key of a revision in Expect, Delete and Change.
func RevisionKey(service id.ID, number uint64) []byte {
	return binary.BigEndian.AppendUint64(service.Bytes(), number)
}

// ClaimKey returns the key of a claim in Expect and Change.
func ClaimKey(kind, key string) []byte {
	return append(append([]byte(kind), 0), key...)
}

// parseRevisionKey undoes RevisionKey.
func parseRevisionKey(key []byte) (service []byte, number uint64, ok bool) {
	if len(key) != id.Size+8 {
		return nil, 0, false
	}
	return key[:id.Size], binary.BigEndian.Uint64(key[id.Size:]), true
}

// kindName returns kind as people read it: "service".
func kindName(kind logv1.Kind) string {
	return strings.ToLower(strings.TrimPrefix(kind.String(), "KIND_"))
}

// keyName returns the key of an object of kind as people read it.
func keyName(kind logv1.Kind, key []byte) string {
	switch kind {
	case KindMember:
		if len(key) == 8 {
			return fmt.Sprintf("%x", binary.BigEndian.Uint64(key))
		}
	case KindRevision:
		if service, number, ok := parseRevisionKey(key); ok {
			return fmt.Sprintf("%d of service %s", number, id.ID(service).Short())
		}
	case KindClaim:
		return strings.ReplaceAll(string(key), "\x00", " ")
	}
	if x, err := id.FromBytes(key); err == nil && !x.IsZero() {
		return x.String()
	}
	return fmt.Sprintf("%x", key)
}

// ParseMemberKey undoes MemberKey.
func ParseMemberKey(key []byte) (raftID uint64, ok bool) {
	if len(key) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key), true
}

// parseClaimKey undoes ClaimKey.
func parseClaimKey(key []byte) (kind, name string, ok bool) {
	return strings.Cut(string(key), "\x00")
}
